//! Makes untrusted text safe to print on a terminal.

use std::borrow::Cow;

/// Escapes everything in `text` that could control a terminal or change the direction of writing.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(controls) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if controls(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.into()
}

/// The same for a line of JSON, which stays the same JSON.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    if !json.contains(controls) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        match character {
            // White space between values: JSON has none of it in strings.
            '\n' | '\r' | '\t' => out.push(' '),
            // All of them are below U+10000, so one escape is enough.
            _ if controls(character) => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.into()
}

/// Control characters (C0, DEL, C1), line separators and bidirectional formatting characters.
fn controls(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The first `chars_max` characters, with a note of how many were left out.
pub fn shortened(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => text.into(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}… ({more} more characters)", &text[..end]).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("Grüße, 你好 👋"), "Grüße, 你好 👋");
        assert_eq!(
            printable("\x1b]0;title\x07\r\n\tx\u{9b}31m\u{7f}\u{202e}y"),
            "\\u{1b}]0;title\\u{7}\\r\\n\\tx\\u{9b}31m\\u{7f}\\u{202e}y"
        );
    }

    #[test]
    fn control_characters_in_json_are_escaped_and_it_stays_the_same() {
        let raw = "{\"a\u{9b}b\":\r\n\t[\"\u{7f}x\u{80}\u{9f}\u{a0}\u{202e}\u{2028}é👋\\u001b\"]}";
        let safe = printable_json(raw);
        assert!(!safe.contains(controls), "{safe:?}");
        assert!(safe.contains("\\u009b") && safe.contains("\u{a0}") && safe.contains("é👋"));
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(parsed(&safe), parsed(raw));
        assert_eq!(
            printable_json("{\"text\":\"Grüße\"}"),
            "{\"text\":\"Grüße\"}"
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("héé", 3), "héé");
        assert_eq!(shortened("héé!", 2), "hé… (2 more characters)");
    }
}
