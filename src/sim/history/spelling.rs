//! Parses GUIDs as a service in .NET does.
//!
//! It is independent of the gateway's own parser on purpose, so that a mistake there is not
//! repeated here.

/// The usual form, in lower case with dashes, of a GUID in one of the forms `N`, `D`, `B`, `P` and
/// `X`, or after `urn:uuid:`; `None` when the text is no GUID.
pub(super) fn read(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_prefix("urn:uuid:").unwrap_or(&text);
    let digits = match text.as_bytes() {
        [b'{', b'0', b'x', ..] => from_parts(text)?,
        [b'{', .., b'}'] | [b'(', .., b')'] => dashed(&text[1..text.len() - 1])?,
        _ if text.len() == 32 => text.to_owned(),
        _ => dashed(text)?,
    };
    let is_whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| {
        let part = |from: usize, to: usize| &digits[from..to];
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    })
}

fn dashed(text: &str) -> Option<String> {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    (lengths == [8, 4, 4, 4, 12]).then(|| text.replace('-', ""))
}

/// `{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0xa,…}}`
fn from_parts(text: &str) -> Option<String> {
    let text: String = text.split_whitespace().collect();
    let (head, bytes) = text.strip_prefix('{')?.strip_suffix("}}")?.split_once(",{")?;
    let numbers = head.split(',').chain(bytes.split(','));
    let widths = [8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2];
    let numbers: Vec<_> = numbers.collect();
    if numbers.len() != widths.len() {
        return None;
    }
    let written = numbers.iter().zip(widths).map(|(number, width)| {
        let value = u32::from_str_radix(number.strip_prefix("0x")?, 16).ok()?;
        Some(format!("{value:0width$x}")).filter(|digits| digits.len() == width)
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nothing_else() {
        let guid = "60c4aa2d-7f35-4b8f-9e0a-00000000000b";
        for text in [
            guid,
            "60C4AA2D7F354B8F9E0A00000000000B",
            " {60c4aa2d-7f35-4b8f-9e0a-00000000000b}",
            "(60c4aa2d-7f35-4b8f-9e0a-00000000000b)",
            "urn:uuid:60c4aa2d-7f35-4b8f-9e0a-00000000000b",
            "{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0xa,0x00,0x0,0x00,0x00,0x00,0xb}}",
        ] {
            assert_eq!(read(text).as_deref(), Some(guid), "{text}");
        }
        for text in [
            "",
            "x",
            "{}",
            "60c4aa2d-7f35-4b8f-9e0a-00000000000",
            "{0x1}",
            "60c4aa2d-7f354b8f-9e0a-00000000000b-",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
