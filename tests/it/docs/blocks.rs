//! The code blocks of the documentation. The first word after the fence says what a block is, and thereby what tests it.

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

use super::{Text, texts};

/// A code block.
pub struct Block {
    pub path: &'static str,
    /// Of its first line in the file, from 1.
    pub line: usize,
    pub info: String,
    pub code: String,
}

impl Block {
    pub fn place(&self) -> String {
        format!("{}:{}", self.path, self.line)
    }
}

pub fn of(file: Text) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (event, range) in Parser::new(file.text).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                open = Some(Block {
                    path: file.path,
                    line: file.text[..range.start].lines().count() + 2,
                    info: info.into_string(),
                    code: String::new(),
                });
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => {
                panic!("{}: an indented code block: give it a fence", file.path)
            }
            Event::Text(text) => {
                if let Some(block) = &mut open {
                    block.code.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            _ => {}
        }
    }
    blocks
}

/// All blocks of a kind.
pub fn all(info: &str) -> Vec<Block> {
    let blocks = texts().flat_map(of);
    blocks.filter(|block| block.info == info).collect()
}

/// Blocks that cannot run here are marked, in the text, for everybody to see; they are few.
#[test]
fn every_block_is_of_a_kind_that_is_tested_or_says_that_it_is_not() {
    let tested = [
        "sh",
        "sh fdb",
        "sh fdb backup",
        "sh fdb restore",
        "js",
        "json",
        "toml",
        "yaml",
        "ini",
        "nginx",
        "nginx prefix",
        "haproxy",
    ];
    let mut untested = Vec::new();
    for block in texts().flat_map(of) {
        match block.info.as_str() {
            info if tested.contains(&info) => {}
            "sh untested" | "dockerfile" => untested.push(block.place()),
            info => panic!("{}: a block of the kind {info:?}", block.place()),
        }
    }
    assert!(untested.len() <= 6, "{untested:?}");
}
