//! The CollegeMsg data set: 59,835 private messages of an online community, as a realistic workload. It is not part of
//! the project.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::needs::{self, not_tested};

/// A message and the number of its line, from 1.
pub struct Message {
    pub line: usize,
    pub from: u64,
    pub to: u64,
    /// Seconds since 1970.
    pub sent: i64,
}

impl Message {
    /// The receiver's feed and the feed of the conversation.
    pub fn feeds(&self) -> [String; 2] {
        let (low, high) = (self.from.min(self.to), self.from.max(self.to));
        [format!("user:{}", self.to), format!("chat:{low}-{high}")]
    }
}

/// The data set's file, in `data/` of the folder that `NEWSFEED_SHARED` names. If it is missing, `test` is reported as
/// not tested.
pub fn file(test: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("NEWSFEED_SHARED").map_or_else(beside, PathBuf::from);
    let file = shared.join("data/CollegeMsg.txt.gz");
    if file.is_file() {
        return Some(file);
    }
    let why = format!(
        "{} is missing; set NEWSFEED_SHARED to the folder that has data/",
        file.display()
    );
    not_tested(test, &why, needs::CI);
    None
}

/// Reads the messages, oldest first.
pub fn read(file: &Path) -> impl Iterator<Item = Message> {
    let file = std::fs::File::open(file).expect("the data set opens");
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines.zip(1..).map(|(text, line)| {
        let text = text.expect("the data set is text");
        let mut numbers = text
            .split(' ')
            .map(|number| number.parse::<i64>().expect("a number"));
        let mut number = || numbers.next().expect("three numbers a line");
        Message {
            line,
            from: number().cast_unsigned(),
            to: number().cast_unsigned(),
            sent: number(),
        }
    })
}
