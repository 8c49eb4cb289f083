//! Finds the end of a JSON value, or the first byte at which it cannot be JSON, without keeping it in memory.
//!
//! Numbers, literals and escapes are not checked: the service does that.

/// Maximum nesting of a value. The service allows less.
const DEPTH_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    Value,
    /// After `[`.
    ValueOrEnd,
    Key,
    /// After `{`.
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

#[derive(Debug, PartialEq)]
pub enum Step {
    /// The value goes on.
    More,
    /// This byte is the last of the value.
    Last,
    /// The byte before was the last of the value.
    Ended,
    /// This byte cannot be here; something else was expected.
    Wrong(&'static str),
}

/// The state within a value, from its first byte on.
#[derive(Debug)]
pub struct Scan {
    /// The brackets that are open.
    open: Vec<u8>,
    next: Next,
    string: bool,
    escaped: bool,
    scalar: bool,
}

impl Scan {
    pub fn new() -> Self {
        Self {
            open: Vec::new(),
            next: Next::Value,
            string: false,
            escaped: false,
            scalar: false,
        }
    }

    pub fn step(&mut self, byte: u8) -> Step {
        if self.string {
            return self.in_string(byte);
        }
        if self.scalar {
            if in_scalar(byte) {
                return Step::More;
            }
            self.scalar = false;
            if self.open.is_empty() {
                return Step::Ended;
            }
        }
        let array = self.open.last() == Some(&b'[');
        match (self.next, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => Step::More,
            (Next::Key | Next::KeyOrEnd, b'"') => self.begin_string(Next::Colon),
            (Next::Value | Next::ValueOrEnd, b'"') => self.begin_string(Next::CommaOrEnd),
            (Next::Value | Next::ValueOrEnd, b'{') => self.begin(byte, Next::KeyOrEnd),
            (Next::Value | Next::ValueOrEnd, b'[') => self.begin(byte, Next::ValueOrEnd),
            (Next::KeyOrEnd, b'}') | (Next::ValueOrEnd, b']') => self.end(),
            (Next::CommaOrEnd, b'}') if !array => self.end(),
            (Next::CommaOrEnd, b']') if array => self.end(),
            (Next::Value | Next::ValueOrEnd, _) if in_scalar(byte) => {
                self.scalar = true;
                self.next = Next::CommaOrEnd;
                Step::More
            }
            (Next::CommaOrEnd, b',') => {
                self.next = if array { Next::Value } else { Next::Key };
                Step::More
            }
            (Next::Colon, b':') => {
                self.next = Next::Value;
                Step::More
            }
            _ => Step::Wrong(self.expected()),
        }
    }

    /// What the value needs next.
    pub fn expected(&self) -> &'static str {
        match self.next {
            _ if self.string => "the end of a string, which cannot contain a line break",
            Next::Value => "a value",
            Next::ValueOrEnd => "a value or `]`",
            Next::Key => "a name in double quotes",
            Next::KeyOrEnd => "a name in double quotes or `}`",
            Next::Colon => "`:`",
            Next::CommaOrEnd if self.open.last() == Some(&b'[') => "`,` or `]`",
            Next::CommaOrEnd => "`,` or `}`",
        }
    }

    fn in_string(&mut self, byte: u8) -> Step {
        match byte {
            0..=0x1f => return Step::Wrong(self.expected()),
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.string = false;
                if self.open.is_empty() {
                    return Step::Last;
                }
            }
            _ => {}
        }
        Step::More
    }

    fn begin_string(&mut self, after: Next) -> Step {
        self.string = true;
        self.next = after;
        Step::More
    }

    fn begin(&mut self, bracket: u8, next: Next) -> Step {
        if self.open.len() == DEPTH_MAX {
            return Step::Wrong("no deeper nesting");
        }
        self.open.push(bracket);
        self.next = next;
        Step::More
    }

    fn end(&mut self) -> Step {
        self.open.pop();
        self.next = Next::CommaOrEnd;
        if self.open.is_empty() {
            Step::Last
        } else {
            Step::More
        }
    }
}

fn in_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// `json` without the white space outside of strings.
pub fn compact(json: &[u8]) -> Vec<u8> {
    let (mut string, mut escaped) = (false, false);
    let kept = json.iter().filter(|byte| {
        if string {
            string = escaped || **byte != b'"';
            escaped = !escaped && **byte == b'\\';
            return true;
        }
        string = **byte == b'"';
        !byte.is_ascii_whitespace()
    });
    kept.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the first value in `text`, or where it is wrong.
    fn scanned(text: &str) -> Result<Option<usize>, (usize, &'static str)> {
        let mut scan = Scan::new();
        for (at, byte) in text.bytes().enumerate() {
            match scan.step(byte) {
                Step::More => {}
                Step::Last => return Ok(Some(at + 1)),
                Step::Ended => return Ok(Some(at)),
                Step::Wrong(expected) => return Err((at, expected)),
            }
        }
        Ok(None)
    }

    #[test]
    fn a_value_ends_where_its_brackets_do() {
        for value in [
            "{}",
            "[]",
            r#"{ "a" : [ 1 , -2.5e+3 , true ] , "b" : { "c" : null } }"#,
            r#"{"a":"}\"]\\","b":[[],{}]}"#,
            "{\n\t\"a\":\r\n[\n]\n}",
            r#""text""#,
        ] {
            assert_eq!(scanned(&format!("{value},rest")), Ok(Some(value.len())));
            for cut in 1..value.len() {
                assert_eq!(scanned(&value[..cut]), Ok(None), "{}", &value[..cut]);
            }
        }
        assert_eq!(scanned("17 "), Ok(Some(2)));
        assert_eq!(scanned(&"[".repeat(DEPTH_MAX)), Ok(None));
        assert!(scanned(&"[".repeat(DEPTH_MAX + 1)).is_err());
    }

    #[test]
    fn what_cannot_be_json_is_found_at_once() {
        for (text, at, expected) in [
            (r#"{"a":1 "b""#, 7, "`,` or `}`"),
            ("[1 2", 3, "`,` or `]`"),
            (r#"{"a" 1"#, 5, "`:`"),
            (r#"{"a":1,}"#, 7, "a name in double quotes"),
            ("{a", 1, "a name in double quotes or `}`"),
            ("[1,]", 3, "a value"),
            (r#"{"a":1]"#, 6, "`,` or `}`"),
            (
                "[\"a\n",
                3,
                "the end of a string, which cannot contain a line break",
            ),
            (r#"{"a":}"#, 5, "a value"),
        ] {
            assert_eq!(scanned(text), Err((at, expected)), "{text}");
        }
    }

    #[test]
    fn white_space_is_removed_only_outside_of_strings() {
        let pretty = b"{ \"a b\" : [ 1 ,\n \"\\\" x\\\\\" , \" \" ] }";
        assert_eq!(compact(pretty), br#"{"a b":[1,"\" x\\"," "]}"#);
    }
}
