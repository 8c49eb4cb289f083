//! The deliveries of kinds, as a list of `KIND=DELIVERY`.

use std::str::FromStr;

use crate::types::{Delivery, Kind};

/// One or more items, separated by commas. A comma in the name of a kind is written `\,`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindList(pub Vec<(Kind, Delivery)>);

impl FromStr for KindList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        items(text)
            .into_iter()
            .map(parse_item)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// The items of a list, in which commas are still escaped.
pub fn items(text: &str) -> Vec<&str> {
    let ends = text
        .match_indices(',')
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

/// A name can contain `=`; a delivery cannot.
fn parse_item(text: &str) -> Result<(Kind, Delivery), String> {
    let (kind, delivery) = text
        .rsplit_once('=')
        .ok_or("expected KIND=DELIVERY, such as message=notify")?;
    let kind = kind.replace("\\,", ",");
    Ok((
        kind.parse().map_err(|error| format!("the kind {error}"))?,
        delivery.parse()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_may_have_equals_signs_and_escaped_commas() {
        let list: KindList = r#"message=notify,a=b=entry,x\,y=transient,"q"\z=notify"#
            .parse()
            .expect("a list");
        let kinds: Vec<_> = list.0.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["message", "a=b", "x,y", r#""q"\z"#]);
        assert_eq!(list.0[2].1, Delivery::Transient);
        assert_eq!(
            format!("{}=notify", escaped("x,y"))
                .parse::<KindList>()
                .map(|list| list.0[0].0.clone()),
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
        ] {
            assert!(bad.parse::<KindList>().is_err(), "{bad}");
        }
    }
}
