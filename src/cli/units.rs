//! Quantities as people read them.

/// `1 image`, `3 images`.
pub fn count(count: usize, name: &str) -> String {
    match count {
        1 => format!("1 {name}"),
        _ => format!("{count} {name}s"),
    }
}

/// `3.4 MB`: decimal, three digits.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// `2.1 GMAC`.
pub fn macs(macs: u64) -> String {
    scaled(macs as f64, &["MAC", "kMAC", "MMAC", "GMAC", "TMAC"])
}

/// `1.2 s`, `35 ms`, `80 µs`, `3 min 20 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 100.0 => format!("{} min {:02} s", s as u64 / 60, s as u64 % 60),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 1e-3 => format!("{} ms", three_digits(s * 1e3)),
        s => format!("{} µs", three_digits(s * 1e6)),
    }
}

/// `12.5 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A size as written on the command line: `500M`, `20G`, `1.5GB`, a number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return Err("write a size like 500M or 20G".into()),
    };
    match number.trim().parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok((value * factor) as u64),
        _ => Err("write a size like 500M or 20G".into()),
    }
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0} {}", units[0]),
        _ => format!("{} {}", three_digits(value), units[unit]),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_234_567), "1.23 MB");
        assert_eq!(bytes(999_999), "1.00 MB");
        assert_eq!(macs(2_149_000_000_000), "2.15 TMAC");
        assert_eq!(seconds(0.0354), "35.4 ms");
        assert_eq!(seconds(200.0), "3 min 20 s");
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_bytes("20G"), Ok(20_000_000_000));
        assert_eq!(parse_bytes("1.5 MB"), Ok(1_500_000));
        assert_eq!(parse_bytes("12"), Ok(12));
        assert!(parse_bytes("much").is_err() && parse_bytes("-1G").is_err() && parse_bytes("5x").is_err());
    }
}
