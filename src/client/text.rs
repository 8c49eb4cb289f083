//! What others wrote, for a terminal.

use std::borrow::Cow;

/// `text` with all escaped that would steer a terminal or show in another order than it is in.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if steers(character) {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.into()
}

/// Control characters (C0, DEL, C1), separators of lines, and what turns the direction of writing.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The first `chars_max` characters, and how many more there are.
pub fn shortened(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => text.into(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}… (and {more} characters more)", &text[..end]).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(printable("Grüße, 你好 👋"), "Grüße, 你好 👋");
        assert_eq!(
            printable("\x1b]0;title\x07\r\n\tx\u{9b}31m\u{7f}\u{202e}y"),
            "\\u{1b}]0;title\\u{7}\\r\\n\\tx\\u{9b}31m\\u{7f}\\u{202e}y"
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("héé", 3), "héé");
        assert_eq!(shortened("héé!", 2), "hé… (and 2 characters more)");
    }
}
