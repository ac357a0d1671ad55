//! Amounts of bytes for people.

/// `20 kB`, `2.1 GB`: powers of 1000, one digit behind the point below ten.
pub(crate) fn readable(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // A negative amount is a huge one to etcdctl, which takes it for an unsigned number.
    let bytes = bytes as u64;
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = bytes.ilog(1000) as usize;
    let value = (bytes as f64 / 1000f64.powi(unit as i32) * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |bytes, text: &str| assert_eq!(readable(bytes), text);
        check(0, "0 B");
        check(9, "9 B");
        check(999, "999 B");
        check(1_000, "1.0 kB");
        check(20_480, "20 kB");
        check(2_147_483_648, "2.1 GB");
        check(82_854_982, "83 MB");
        check(-1, "18 EB");
    }
}
