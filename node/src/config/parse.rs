//! From texts to types: one small function a kind of setting, each with its bounds.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The largest secret file that is read.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

/// A whole number within bounds.
pub fn number(text: &str, bounds: RangeInclusive<u64>) -> Result<u64, String> {
    let (low, high) = (bounds.start(), bounds.end());
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(n) if plain && bounds.contains(&n) => Ok(n),
        _ => Err(format!("{} is not a whole number from {low} to {high}", quoted(text))),
    }
}

/// A number of bytes with an optional unit: `kB MB GB TB PB` (and `K M G T P`) are powers of
/// 1,000, `KiB MiB GiB TiB PiB` powers of 1,024; a decimal fraction is allowed.
pub fn size(text: &str) -> Result<u64, String> {
    parse_size(text)
        .ok_or_else(|| format!("{} is not a size: write it like 500GB, 1.5TiB or 1000000", quoted(text)))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (letters, base) = match unit.strip_suffix("ib") {
        Some(letters) if !letters.is_empty() => (letters, 1024_u128),
        Some(_) => return None,
        None => (unit.strip_suffix('b').unwrap_or(&unit), 1000),
    };
    let power = match letters {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || whole.len() > 20 || fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let thousandths = whole.parse::<u128>().ok()? * scale + fraction.parse::<u128>().ok()?;
    u64::try_from(thousandths.checked_mul(base.pow(power))? / scale).ok()
}

/// A label of 1 to 63 visible ASCII characters.
pub fn label(text: &str) -> Result<String, String> {
    if (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not 1 to 63 visible ASCII characters", quoted(text)))
    }
}

/// Reads a file of secrets, separated by commas or line breaks.
///
/// Only a regular file that nobody but its owner can read or write is accepted.
pub fn secret_file(path: &str) -> Result<String, String> {
    let shown = quoted(path);
    // Opened before it is looked at, so that what is checked is what is read; a pipe must not block.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(Path::new(path))
        .map_err(|e| format!("open {shown}: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("look at {shown}: {e}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{shown} has mode {mode:04o}: others may read it; run chmod 600 on it"));
    }
    if metadata.len() > MAX_SECRET_FILE_BYTES {
        return Err(format!("{shown} is larger than {MAX_SECRET_FILE_BYTES} bytes"));
    }
    let mut text = String::new();
    file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text).map_err(|e| format!("read {shown}: {e}"))?;
    Ok(text)
}

/// The members of a list separated by commas or line breaks, without blanks.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty())
}

/// A text as an error message shows it: in quotes, escaped, cut.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        let cases = [
            ("0", 0),
            ("1000000", 1_000_000),
            ("10B", 10),
            ("1k", 1_000),
            ("500GB", 500_000_000_000),
            ("1.5TiB", 3 << 39),
            ("2 MiB", 2 << 20),
            ("0.5kB", 500),
            ("3P", 3_000_000_000_000_000),
        ];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "GB", "-1", "1e3", "1.", ".5", "1..5", "1XB", "1iB", "1 2", "99999999999P", "1.1234567G"]
        {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_size_panic(text in "[0-9.kKmMiIbBgGtTpP -]{0,40}|\\PC{0,20}") {
            let _ = size(&text);
            let _ = number(&text, 0..=u64::MAX);
        }
    }
}
