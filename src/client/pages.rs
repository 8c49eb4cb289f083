//! Reads history page by page.

use super::{
    Error,
    api::Client,
    feeds::{Entry, Page, Told},
};

/// Maximum number of entries of a page.
pub const PAGE_ENTRIES_MAX: usize = 200;

/// Maximum number of kinds that a page or stream can be limited to.
const KINDS_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    NewestFirst,
    OldestFirst,
}

/// The entries to read.
#[derive(Debug, Clone)]
pub struct Range {
    /// Of the log, names and patterns; there, none is all.
    pub feeds: Vec<String>,
    /// All events, not the entries of the feeds.
    pub log: bool,
    /// Empty for all kinds.
    pub kinds: Vec<String>,
    /// `None` for the feeds' own reader. The log has none.
    pub reader: Option<String>,
    /// Only entries in this state; `None` for all.
    pub state: Option<&'static str>,
    /// Entries after this version; `0` for all.
    pub after: String,
    /// Entries up to this version; `None` for the version of the first page.
    pub until: Option<String>,
}

impl Range {
    /// The kinds, as parameters of a request. More kinds than the service takes are filtered here.
    pub fn kind_parameters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let sent = self.kinds.len() <= KINDS_MAX;
        let kinds = self.kinds.iter().filter(move |_| sent);
        kinds.map(|kind| ("kind", &**kind))
    }

    /// The reader and the state, as parameters of a page.
    fn view(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let reader = self.reader.as_deref().map(|reader| ("reader", reader));
        let state = self.state.map(|state| ("state", state));
        reader.into_iter().chain(state)
    }
}

/// Walks through a range with one page in memory. Entries appended meanwhile are not included.
pub struct Walk<'a> {
    client: &'a Client,
    range: Range,
    order: Order,
    /// Where the next page begins; `None` at the end.
    position: Option<String>,
    entries_wanted: usize,
}

impl<'a> Walk<'a> {
    /// `entries_wanted` is an upper bound on what the caller will use; no page is larger.
    pub fn new(client: &'a Client, range: Range, order: Order, entries_wanted: usize) -> Self {
        Self {
            client,
            position: Some(match order {
                Order::OldestFirst => range.after.clone(),
                Order::NewestFirst => String::new(),
            }),
            range,
            order,
            entries_wanted,
        }
    }

    /// The version up to which the walk reads. Known after the first page.
    pub fn until(&self) -> Option<&str> {
        self.range.until.as_deref()
    }

    /// The entries of the next page, possibly none; `None` at the end. Oldest first, the news of changes stand between them.
    pub async fn next(&mut self) -> Result<Option<Vec<Told<Entry>>>, Error> {
        let Some(position) = self.position.take() else {
            return Ok(None);
        };
        // With a filter, any number of entries may be needed to find the wanted ones.
        let limit = match (&*self.range.kinds, self.range.state) {
            ([], None) => self.entries_wanted.clamp(1, PAGE_ENTRIES_MAX),
            _ => PAGE_ENTRIES_MAX,
        };
        let limit = limit.to_string();
        let mut parameters = vec![("limit", &*limit)];
        match self.order {
            Order::OldestFirst => {
                parameters.push(("after", &position));
                // Whoever reads everything gets what is kept, also where more goes while the walk is under way.
                if self.range.after == "0" {
                    parameters.push(("kept", "true"));
                }
            }
            Order::NewestFirst if position.is_empty() => {}
            Order::NewestFirst => parameters.push(("before", &position)),
        }
        if let Some(until) = &self.range.until {
            parameters.push(("until", until));
        }
        parameters.extend(self.range.kind_parameters());
        parameters.extend(self.range.view());
        let Page {
            version,
            mut entries,
            changes,
            next,
        } = self.client.page(&self.range, &parameters).await?;
        if !changes.is_empty() {
            entries.extend(changes);
            entries.sort_by(|one, other| one.value.position().cmp(&other.value.position()));
        }
        self.range.until.get_or_insert(version);
        self.position = next;
        let count = entries.len();
        if self.order == Order::NewestFirst {
            let after = &*self.range.after;
            entries.retain(|entry| entry.value.version.as_deref() > Some(after));
        }
        if entries.len() < count {
            self.position = None;
        }
        entries.retain(|entry| wanted(&self.range.kinds, &entry.value.kind));
        self.entries_wanted = self.entries_wanted.saturating_sub(entries.len());
        Ok(Some(entries))
    }
}

/// Whether `kinds` contains `kind` or is empty, which means all kinds.
pub fn wanted(kinds: &[String], kind: &str) -> bool {
    kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind)
}
