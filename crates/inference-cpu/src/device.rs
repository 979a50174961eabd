//! What this machine's CPU is.

use std::fs;

use inference_core::DeviceInfo;

use crate::Tier;

/// The CPU with its name, cores, memory and instruction sets, as far as the
/// operating system tells, and the kernels in use.
pub(crate) fn describe(tier: Tier) -> DeviceInfo {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let name = model_name(&read("/proc/cpuinfo"));
    let mut device =
        DeviceInfo::new(name.unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH)));
    if let Some(bytes) = total_memory(&read("/proc/meminfo")) {
        device = device.with_memory_bytes(bytes);
    }
    if let Ok(cores) = std::thread::available_parallelism() {
        device = device.with_compute_units(cores.get());
    }
    device
        .with_fact("architecture", std::env::consts::ARCH)
        .with_fact("instruction_sets", instruction_sets().join(" "))
        .with_fact("kernels", tier.as_str())
}

/// The name in Linux's `/proc/cpuinfo`.
fn model_name(cpuinfo: &str) -> Option<String> {
    let (_, name) = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The bytes of main memory in Linux's `/proc/meminfo`.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The instruction sets of interest that this CPU has.
fn instruction_sets() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! detect {
        ($detect:ident: $($feature:tt)*) => {
            $(if std::arch::$detect!($feature) { found.push($feature); })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    detect!(is_x86_feature_detected:
        "sse4.2" "avx" "avx2" "fma" "f16c" "avxvnni"
        "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "bf16" "i8mm" "sve");
    found.shrink_to_fit();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 3 GHz\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("Some CPU @ 3 GHz"));
        assert_eq!(total_memory("MemTotal:       8000 kB\nMemFree: 1 kB\n"), Some(8_192_000));
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        assert_eq!(model_name("processor: 0\nmodel name :\n"), None);
        for bad in ["", "MemTotal: many kB", "MemTotal: 5 pages", "MemTotal: 99999999999999999 kB"]
        {
            assert_eq!(total_memory(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_description_names_the_kernels() {
        let device = describe(Tier::best());
        assert!(!device.name.is_empty());
        assert!(device.facts.contains(&("kernels".to_owned(), Tier::best().to_string())));
    }
}
