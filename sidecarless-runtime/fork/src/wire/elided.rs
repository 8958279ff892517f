//! Pages as they travel: those that are zeros are only named.

use ramet_sys::pagemap::PAGE_BYTES;

use super::WireError;

const PAGE: usize = PAGE_BYTES as usize;

/// Pages, and which of them are zeros: one bit each.
#[derive(Debug)]
pub(crate) struct Elided<'p> {
    pages: &'p [u8],
    zeros: Vec<u8>,
}

impl<'p> Elided<'p> {
    /// Looks which of the pages are zeros.
    pub(crate) fn of(pages: &'p [u8], mut zeros: Vec<u8>) -> Self {
        zeros.clear();
        zeros.resize(bits_bytes(pages.len()), 0);
        for (index, page) in pages.chunks(PAGE).enumerate() {
            if is_zeros(page) {
                zeros[index / 8] |= 1 << (index % 8);
            }
        }
        Self { pages, zeros }
    }

    /// The parts that travel, one after the other: the bits, and the pages that are no zeros.
    pub(crate) fn parts(&self) -> Vec<&[u8]> {
        let mut parts: Vec<&[u8]> = vec![&self.zeros];
        let mut start = 0;
        for (index, page) in self.pages.chunks(PAGE).enumerate() {
            let at = index * PAGE;
            if is_set(&self.zeros, index) {
                if start < at {
                    parts.push(&self.pages[start..at]);
                }
                start = at + page.len();
            }
        }
        if start < self.pages.len() {
            parts.push(&self.pages[start..]);
        }
        parts
    }

    /// What the bits were kept in.
    pub(crate) fn into_zeros(self) -> Vec<u8> {
        self.zeros
    }
}

/// The pages that came as such parts, `bytes` in all. `scratch` is where they are put together if some are zeros.
pub(crate) fn restore<'b>(came: &'b [u8], bytes: usize, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], WireError> {
    const SENSELESS: WireError = WireError::Senseless("pages that are not as many as were asked for");
    let (zeros, mut rest) = came.split_at_checked(bits_bytes(bytes)).ok_or(SENSELESS)?;
    if zeros.iter().all(|bits| *bits == 0) {
        return if rest.len() == bytes { Ok(rest) } else { Err(SENSELESS) };
    }
    scratch.clear();
    scratch.reserve(bytes);
    for index in 0..bytes / PAGE {
        if is_set(zeros, index) {
            scratch.resize(scratch.len() + PAGE, 0);
        } else {
            let (page, others) = rest.split_at_checked(PAGE).ok_or(SENSELESS)?;
            scratch.extend(page);
            rest = others;
        }
    }
    if rest.is_empty() { Ok(scratch) } else { Err(SENSELESS) }
}

/// The same, for who keeps them.
pub(crate) fn restore_owned(came: &[u8], bytes: usize) -> Result<Vec<u8>, WireError> {
    let mut scratch = Vec::new();
    let pages = restore(came, bytes, &mut scratch)?;
    // Memory that was never used costs a fault for each page, so they are put together at most once.
    let is_together = pages.is_empty() || came.as_ptr_range().contains(&pages.as_ptr());
    Ok(if is_together { pages.to_vec() } else { scratch })
}

/// Whether all bytes are zeros.
pub(crate) fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

fn is_set(bits: &[u8], index: usize) -> bool {
    bits[index / 8] & (1 << (index % 8)) != 0
}

const fn bits_bytes(pages_bytes: usize) -> usize {
    pages_bytes.div_ceil(PAGE).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_and_zeros_do_not_travel() {
        for pattern in 0..1_u32 << 11 {
            let mut pages = vec![0; 11 * PAGE];
            for index in (0..11).filter(|index| pattern & (1 << index) != 0) {
                // A page is no zeros for its last byte, too.
                pages[(index + 1) * PAGE - 1] = index as u8 + 1;
            }
            let elided = Elided::of(&pages, Vec::new());
            let came = elided.parts().concat();
            assert_eq!(came.len(), 2 + pattern.count_ones() as usize * PAGE, "{pattern:#x}");
            let mut scratch = Vec::new();
            assert!(restore(&came, pages.len(), &mut scratch).expect("pages") == pages, "{pattern:#x}");
            assert!(restore_owned(&came, pages.len()).expect("pages") == pages, "{pattern:#x}");
            assert!(restore(&came[..came.len() - 1], pages.len(), &mut scratch).is_err());
            assert!(restore(&[&came[..], &[0]].concat(), pages.len(), &mut scratch).is_err());
        }
    }
}
