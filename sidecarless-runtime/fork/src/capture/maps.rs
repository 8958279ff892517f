//! The lines of `/proc/PID/maps`.

use ramet_sys::Range;

use crate::program::PROGRAM_NAME;

/// One mapping, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) range: Range,
    pub(super) protection: u32,
    pub(super) shared: bool,
    pub(super) offset: u64,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// The name, which may be empty or in brackets.
    pub(super) name: Vec<u8>,
}

/// Reads a whole file of lines. `None`: a line is not understood.
pub(super) fn parse(text: &[u8]) -> Option<Vec<Line>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(line).collect()
}

impl Line {
    /// Whether it maps memory that has no name in any file system: it is shared, or was a file of a process.
    pub(super) fn is_memory(&self) -> bool {
        is_memory(&self.name) && !self.is_of_a_fork()
    }

    /// Whether it is what a child has kept of the program that made it what it is. Nobody in it knows of that.
    pub(super) fn is_of_a_fork(&self) -> bool {
        let name = self.name.strip_prefix(b"/memfd:").and_then(|name| name.strip_suffix(b" (deleted)"));
        !self.shared && name == Some(PROGRAM_NAME.as_bytes())
    }
}

/// Whether the name of a mapping, or of an open file, says that it is memory.
pub(super) fn is_memory(name: &[u8]) -> bool {
    let starts = [&b"/memfd:"[..], b"/dev/zero (deleted)", b"/SYSV"];
    // What shm_open(3) made is memory, too, which nobody finds any more once it was unlinked.
    let is_unlinked = name.starts_with(b"/dev/shm/") && name.ends_with(b" (deleted)");
    is_unlinked || starts.iter().any(|start| name.starts_with(start))
}

/// What is special about a mapping (`VmFlags` in proc_pid_smaps(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// Forks wipe it.
    Wiped,
    /// Forks do not have it.
    LeftOut,
    /// Its missing pages are given by who has a userfaultfd.
    Registered,
}

impl Flag {
    const fn letters(self) -> &'static [u8] {
        match self {
            Self::Wiped => b"wf",
            Self::LeftOut => b"dc",
            Self::Registered => b"um",
        }
    }
}

/// The mappings that a flag is on, from the text of `/proc/PID/smaps`.
pub(super) fn flagged(text: &[u8], flag: Flag) -> Vec<Range> {
    let mut mapping = None;
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            if flags.split(|byte| *byte == b' ').any(|letters| letters == flag.letters()) {
                found.extend(mapping);
            }
        } else if let Some(line) = self::line(line) {
            mapping = Some(line.range);
        }
    }
    found
}

fn line(line: &[u8]) -> Option<Line> {
    // address, permissions, offset, device and inode have no spaces in them; a name may.
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?.as_bytes();
    let offset = hexadecimal(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    let bit = |at: usize, letter: u8, bit: libc::c_int| {
        if permissions.get(at) == Some(&letter) { bit.cast_unsigned() } else { 0 }
    };
    Some(Line {
        range: Range::new(hexadecimal(start)?, hexadecimal(end)?),
        protection: bit(0, b'r', libc::PROT_READ) | bit(1, b'w', libc::PROT_WRITE) | bit(2, b'x', libc::PROT_EXEC),
        shared: permissions.get(3) == Some(&b's'),
        offset,
        device: libc::makedev(hexadecimal(major)? as u32, hexadecimal(minor)? as u32),
        inode,
        name: name.to_vec(),
    })
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_specials_and_nameless() {
        let text = b"55d0a000-55d0b000 r-xp 00002000 fe:01 1234                       /usr/bin/a b\n\
            7ffd1000-7ffd3000 rw-p 00000000 00:00 0                          [stack]\n\
            7f000000-7f001000 ---s 00000000 00:05 9 \n";
        let lines = parse(text).expect("three lines");
        assert_eq!(lines[0].range, Range::new(0x55d0_a000, 0x55d0_b000));
        assert_eq!((lines[0].protection, lines[0].shared, lines[0].offset), (5, false, 0x2000));
        assert_eq!((lines[0].device, lines[0].inode), (libc::makedev(0xfe, 1), 1234));
        assert_eq!(lines[0].name, b"/usr/bin/a b");
        assert_eq!(lines[1].name, b"[stack]");
        assert_eq!((lines[2].protection, lines[2].shared, lines[2].name.as_slice()), (0, true, &b""[..]));
        assert_eq!(parse(b"nonsense\n"), None);
    }

    #[test]
    fn what_a_fork_has_kept_is_no_memory_of_the_process() {
        let line = |rest: &str| format!("7f000000-7f001000 {rest}\n");
        let text = [
            "r--p 00005000 00:01 9 /memfd:ramet-program (deleted)",
            "rw-s 00005000 00:01 9 /memfd:ramet-program (deleted)",
            "rw-p 00000000 00:01 9 /memfd:ramet-programs (deleted)",
        ]
        .map(line)
        .concat();
        let lines = parse(text.as_bytes()).expect("three lines");
        assert_eq!(lines.iter().map(Line::is_memory).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(lines.iter().map(Line::is_of_a_fork).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn finds_what_a_flag_is_on() {
        let text =
            b"7f000000-7f001000 rw-p 00000000 00:00 0 \nSize:                  4 kB\nVmFlags: rd wr mr mw me ac \n\
            7f002000-7f003000 rw-p 00000000 00:00 0 \nRss:                   0 kB\nVmFlags: rd wr mr mw me wf ac sd \n\
            7f003000-7f004000 rw-p 00000000 00:00 0 \nVmFlags: rd wr um \n";
        assert_eq!(flagged(text, Flag::Wiped), [Range::new(0x7f00_2000, 0x7f00_3000)]);
        assert_eq!(flagged(text, Flag::Registered), [Range::new(0x7f00_3000, 0x7f00_4000)]);
    }
}
