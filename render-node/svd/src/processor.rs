//! Which processor this is: libraries choose their kernels by more than the instruction sets that have names here.

use std::fs;
use std::sync::LazyLock;

/// As its maker calls it; of Arm's, which have no name, maker and part by number. From `/proc/cpuinfo`.
pub fn processor_name() -> &'static str {
    static NAME: LazyLock<String> =
        LazyLock::new(|| name_in(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()));
    &NAME
}

fn name_in(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(name, value)| (name.trim() == key).then(|| value.trim()))
    };
    let number = |key| value(key).unwrap_or("unknown");
    match value("model name") {
        Some(name) => name.to_owned(),
        None => format!(
            "{} {} part {}",
            std::env::consts::ARCH,
            number("CPU implementer"),
            number("CPU part")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_its_makers_name_or_its_numbers() {
        let x86 = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some(R) CPU @ 2.00GHz\n";
        assert_eq!(name_in(x86), "Some(R) CPU @ 2.00GHz");
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert!(name_in(arm).ends_with(" 0x41 part 0xd0c"));
        assert!(name_in("").ends_with(" unknown part unknown"));
        assert!(!processor_name().is_empty());
    }
}
