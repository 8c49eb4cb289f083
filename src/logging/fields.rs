//! The fields of spans and events in lines of the log, as `tracing_subscriber` writes them without colours. Every request has
//! a span, whose fields are written even if no line of the log shows them; this takes a third of the time.

use std::{
    error::Error,
    fmt::{self, Debug},
};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::format::{DefaultVisitor, FormatFields, Writer},
};

pub(super) struct PlainFields;

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PlainVisitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct PlainVisitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl PlainVisitor<'_> {
    /// Messages and errors are escaped there, so that no text of others controls a terminal.
    fn as_usual(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        let mut visitor = DefaultVisitor::new(self.writer.by_ref(), self.is_first);
        record(&mut visitor);
        self.is_first = false;
    }

    fn write(&mut self, name: &str, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_err() {
            return;
        }
        self.result = (|| {
            if !std::mem::take(&mut self.is_first) {
                self.writer.write_char(' ')?;
            }
            self.writer.write_str(name)?;
            self.writer.write_char('=')?;
            value(&mut self.writer)
        })();
    }
}

/// Whether a field is written in a way of its own.
fn is_special(name: &str) -> bool {
    name == "message" || name.starts_with("r#") || name.starts_with("log.")
}

impl Visit for PlainVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let needs_escape =
            |byte: u8| !(b' '..=b'~').contains(&byte) || matches!(byte, b'"' | b'\\');
        match field.name() {
            name if is_special(name) => self.as_usual(|usual| usual.record_str(field, value)),
            name if value.bytes().any(needs_escape) => {
                self.write(name, |out| write!(out, "{value:?}"));
            }
            name => self.write(name, |out| {
                out.write_char('"')?;
                out.write_str(value)?;
                out.write_char('"')
            }),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.as_usual(|usual| usual.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            name if is_special(name) => self.as_usual(|usual| usual.record_debug(field, value)),
            name => self.write(name, |out| write!(out, "{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{
        fmt::{MakeWriter, SubscriberBuilder, format::DefaultFields},
        util::SubscriberInitExt,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0
                .lock()
                .expect("not poisoned")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is logged with these fields.
    fn logged<F: for<'w> FormatFields<'w> + Send + Sync + 'static>(fields: F) -> String {
        let lines = Lines::default();
        let builder = SubscriberBuilder::default().without_time().with_ansi(false);
        let logging = builder.fmt_fields(fields).with_writer(lines.clone());
        let guard = logging.finish().set_default();
        let span = tracing::info_span!("request", route = "/v1", id = %"a b", later = tracing::field::Empty, r#type = 1);
        span.record("later", 0.5);
        let _entered = span.enter();
        let error = std::io::Error::other(fmt::Error);
        let error: &(dyn Error + 'static) = &error;
        for text in ["", "plain", "with \"quotes\" \\ and \u{1b}[31m é\n"] {
            tracing::info!(text, shown = %text, debugged = ?text, error, number = -7, "message: {text}");
        }
        tracing::warn!(error);
        tracing::info!("message alone");
        drop(guard);
        let lines = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(lines).expect("UTF-8")
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let lines = logged(PlainFields);
        assert_eq!(lines, logged(DefaultFields::new()));
        assert_eq!(lines.matches("number=-7").count(), 3, "{lines}");
    }
}
