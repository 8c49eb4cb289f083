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
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("héé", 3), "héé");
        assert_eq!(shortened("héé!", 2), "hé… (2 more characters)");
    }
}
