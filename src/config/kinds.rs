//! What the service does with kinds of events, as a list of `KIND=DELIVERY` or `KIND=DELIVERY+indexed`.

use std::str::FromStr;

use crate::types::{Delivery, Kind};

/// What follows the delivery of a kind whose entries are indexed in each feed.
const INDEXED: &str = "indexed";

/// One or more items, separated by commas. A comma in the name of a kind is written `\,`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindList(pub Vec<KindSetting>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSetting {
    pub kind: Kind,
    pub delivery: Delivery,
    /// The entries of this kind are indexed in each feed.
    pub indexed: bool,
}

impl FromStr for KindList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        items(text, ',')
            .into_iter()
            .map(parse_item)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The items of a list, in which separators are still escaped.
pub fn items(text: &str, separator: char) -> Vec<&str> {
    let ends = text
        .match_indices(separator)
        .filter(|(at, _)| !text[..*at].ends_with('\\'));
    let mut items = Vec::new();
    let mut start = 0;
    for (end, _) in ends {
        items.push(&text[start..end]);
        start = end + 1;
    }
    items.push(&text[start..]);
    items
}

/// `text` as a part of an item.
pub fn escaped(text: &str) -> String {
    text.replace(',', "\\,")
}

/// A name can contain `=`; what follows it cannot.
fn parse_item(text: &str) -> Result<KindSetting, String> {
    let (kind, rest) = text
        .rsplit_once('=')
        .ok_or("expected KIND=DELIVERY, such as message=notify")?;
    let kind = kind.replace("\\,", ",");
    let kind = kind.parse().map_err(|error| format!("the kind {error}"))?;
    let (delivery, indexed) = match rest.split_once('+') {
        None => (rest, false),
        Some((delivery, INDEXED)) => (delivery, true),
        Some((_, other)) => {
            return Err(format!(
                "{other:?} after the delivery is not known: expected KIND=DELIVERY+{INDEXED}, such as message=notify+{INDEXED}"
            ));
        }
    };
    let delivery = delivery.parse()?;
    if indexed && delivery == Delivery::Transient {
        return Err(format!(
            "the kind {kind} is transient and cannot be {INDEXED}: its events are not stored"
        ));
    }
    Ok(KindSetting {
        kind,
        delivery,
        indexed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_may_have_equals_signs_and_escaped_commas() {
        let list: KindList = r#"message=notify,a=b=entry,x\,y=transient,"q"\z=notify"#
            .parse()
            .expect("a list");
        let kinds: Vec<_> = list.0.iter().map(|item| item.kind.as_str()).collect();
        assert_eq!(kinds, ["message", "a=b", "x,y", r#""q"\z"#]);
        assert_eq!(list.0[2].delivery, Delivery::Transient);
        assert_eq!(
            format!("{}=notify", escaped("x,y"))
                .parse::<KindList>()
                .map(|list| list.0[0].kind.clone()),
            Ok("x,y".parse().expect("a kind"))
        );
        for bad in [
            "",
            "message",
            "message=loud",
            "visit,message=notify",
            "a=notify,",
            "*=entry",
            "a =entry",
            "message=indexed",
            "message=notify+",
            "message=notify+loud",
            "message=notify+indexed+indexed",
            "message+indexed",
            "typing=transient+indexed",
        ] {
            assert!(bad.parse::<KindList>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_indexed_only_if_the_list_says_so() {
        let list: KindList = "a=notify+indexed,b=entry,c+indexed=entry,d=entry+indexed"
            .parse()
            .expect("a list");
        let items: Vec<_> = list.0.iter().collect();
        let items = items
            .iter()
            .map(|it| (it.kind.as_str(), it.delivery, it.indexed));
        let expected = [
            ("a", Delivery::Notify, true),
            ("b", Delivery::Entry, false),
            ("c+indexed", Delivery::Entry, false),
            ("d", Delivery::Entry, true),
        ];
        assert_eq!(items.collect::<Vec<_>>(), expected);
    }
}
