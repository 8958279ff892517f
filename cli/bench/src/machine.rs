//! Where the numbers come from: without this a measurement cannot be compared with another.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// The machine and how busy it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The release of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub cpu_model: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Load averages over 1, 5 and 15 minutes when the run began.
    pub load_average: [f64; 3],
    /// What the kernel does about each of the processor's vulnerabilities.
    pub mitigations: BTreeMap<String, String>,
}

impl Machine {
    /// This machine, now. What it does not tell is left empty.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu_model: model.map_or_else(String::new, |(_, name)| name.trim().to_owned()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            load_average: load_average(&read("/proc/loadavg")),
            mitigations: mitigations(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn load_average(text: &str) -> [f64; 3] {
    let mut fields = text.split(' ').map(|field| field.parse().unwrap_or_default());
    std::array::from_fn(|_| fields.next().unwrap_or_default())
}

fn mitigations() -> BTreeMap<String, String> {
    let folder = "/sys/devices/system/cpu/vulnerabilities";
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.map(|name| (name.clone(), read(&format!("{folder}/{name}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::here();
        assert!(!machine.kernel.is_empty());
        assert!(machine.cores > 0);
    }

    #[test]
    fn three_numbers_are_the_load() {
        assert_eq!(load_average("0.50 1.25 2.00 3/200 4242"), [0.5, 1.25, 2.0]);
        assert_eq!(load_average(""), [0.0; 3]);
    }
}
