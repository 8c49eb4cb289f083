//! Which answers may pass: the same table in the guide to HTTP, the command line and the JavaScript library.

use std::{collections::BTreeSet, fmt::Debug, str::FromStr};

use newsfeed::{
    client::temporary::{CODES, STATUSES},
    http::{problem::Code, web::FILES},
};

/// The comma-separated items of `text`, without quotes.
fn items<T: FromStr<Err: Debug> + Ord>(text: &str) -> BTreeSet<T> {
    text.split(',')
        .map(|item| item.trim().trim_matches('"'))
        .filter(|item| !item.is_empty())
        .map(|item| item.parse().expect("an item"))
        .collect()
}

#[test]
fn the_guide_the_commands_and_the_library_retry_the_same_answers() {
    let library = FILES
        .iter()
        .find(|file| file.path == "/newsfeed/temporary.js")
        .expect("the library's table");
    let list = |name: &str| {
        let (_, rest) = library
            .content
            .split_once(&format!("{name} = ["))
            .expect(name);
        rest.split_once(']').expect("its end").0
    };
    let (_, guide) = include_str!("../../../src/docs/http.md")
        .split_once("\n## Retry\n")
        .expect("the section");
    let (_, rows) = guide.split_once("| --- | --- |\n").expect("the table");
    let rows = rows.lines().take_while(|row| row.starts_with('|'));
    let documented: BTreeSet<u16> = rows
        .flat_map(|row| items(row.split('|').nth(1).expect("a cell")))
        .collect();
    let statuses = BTreeSet::from(STATUSES);
    assert_eq!(documented, statuses);
    assert_eq!(items(list("STATUSES")), statuses);

    let passing = Code::ALL
        .iter()
        .filter(|code| statuses.contains(&code.status().as_u16()));
    let passing: BTreeSet<String> = passing.map(|code| code.name().to_owned()).collect();
    assert_eq!(BTreeSet::from(CODES.map(str::to_owned)), passing);
    assert_eq!(items(list("CODES")), passing);
}
