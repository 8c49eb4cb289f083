//! The journals of fjall: groups of writes, each synced before the next one is begun, followed by zeros or the end of the
//! file.
//!
//! A group consists of `1, number of items (u32), sequence number (u64)`, its items, and `3, checksum of the items (u64),
//! "FJL\x03"`. Numbers are little-endian. An item is `2, type, compression (0: none, 1: lz4), table (u64), length of the key
//! (u16), of the value (u32), of the stored value (u32), key, stored value`, or `4, table (u64)`.

use std::hash::Hasher;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
/// Size of a page. A page of a file that was not written before a crash reads as zeros.
const PAGE_BYTES: usize = 4096;

pub(super) struct Scan {
    pub(super) groups: usize,
    /// The sequence number of the last group.
    pub(super) last: Option<u64>,
    /// The end of the last complete group.
    pub(super) end: usize,
    /// A group follows that has an end, but not all of its pages: a crash interrupted its sync.
    pub(super) is_torn: bool,
}

/// Scans a journal; `after` is the last sequence number of the journal before it. Only the newest journal may end in an
/// incomplete group.
pub(super) fn scan(bytes: &[u8], is_newest: bool, after: Option<u64>) -> Result<Scan, String> {
    let mut scan = Scan {
        groups: 0,
        last: None,
        end: 0,
        is_torn: false,
    };
    let mut last = after;
    loop {
        let rest = &bytes[scan.end..];
        if rest.first().is_none_or(|&byte| byte == 0) && rest.iter().all(|&byte| byte == 0) {
            return Ok(scan);
        }
        match group(rest) {
            Some((number, len)) if last.is_none_or(|last| number > last) => {
                last = Some(number);
                scan.last = last;
                scan.groups += 1;
                scan.end += len;
            }
            _ => match remains(rest, scan.end) {
                Some(remains) if is_newest => {
                    scan.is_torn = remains == Remains::Torn;
                    return Ok(scan);
                }
                _ => return Err(format!("is damaged after byte {}", scan.end)),
            },
        }
    }
}

/// What a crash can leave of the last group.
#[derive(Debug, PartialEq, Eq)]
enum Remains {
    /// It has no end.
    Unfinished,
    /// It has an end, but some of the pages before it were not written.
    Torn,
}

/// Whether `rest`, which is at offset `at` and does not begin with a complete group, can be what a crash left.
fn remains(rest: &[u8], at: usize) -> Option<Remains> {
    let end = memchr::memmem::find_iter(rest, &TRAILER)
        .find(|&trailer| trailer >= 9 && rest[trailer - 9] == END);
    let Some(trailer) = end else {
        return Some(Remains::Unfinished);
    };
    let (torn, behind) = rest.split_at(trailer + TRAILER.len());
    let to_page = at.next_multiple_of(PAGE_BYTES) - at;
    let mut pages = torn
        .get(to_page..)
        .unwrap_or_default()
        .chunks_exact(PAGE_BYTES);
    let is_torn = pages.any(|page| page.iter().all(|&byte| byte == 0))
        && behind.iter().all(|&byte| byte == 0);
    is_torn.then_some(Remains::Torn)
}

/// The sequence number and length of the group at the beginning of `bytes`, if it is complete.
fn group(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut rest = bytes;
    if take(&mut rest)? != [START] {
        return None;
    }
    let items = u32::from_le_bytes(take(&mut rest)?);
    let number = u64::from_le_bytes(take(&mut rest)?);
    let begin = bytes.len() - rest.len();
    for _ in 0..items {
        let [tag] = take(&mut rest)?;
        match tag {
            ITEM => {
                let [_type, compression] = take(&mut rest)?;
                let _table: [u8; 8] = take(&mut rest)?;
                let key = u16::from_le_bytes(take(&mut rest)?);
                let value = u32::from_le_bytes(take(&mut rest)?);
                let stored = u32::from_le_bytes(take(&mut rest)?);
                if compression > 1 || (compression == 0 && stored != value) {
                    return None;
                }
                rest = rest.get(usize::from(key)..)?.get(stored as usize..)?;
            }
            CLEAR => {
                let _table: [u8; 8] = take(&mut rest)?;
            }
            _ => return None,
        }
    }
    let mut hasher = twox_hash::XxHash3_64::new();
    hasher.write(&bytes[begin..bytes.len() - rest.len()]);
    if take(&mut rest)? != [END]
        || u64::from_le_bytes(take(&mut rest)?) != hasher.finish()
        || take(&mut rest)? != TRAILER
    {
        return None;
    }
    Some((number, bytes.len() - rest.len()))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_group(number: u64, values: &[&[u8]]) -> Vec<u8> {
        let mut items = Vec::new();
        for value in values {
            let len = (value.len() as u32).to_le_bytes();
            items.extend([ITEM, 0, 0]);
            items.extend(7u64.to_le_bytes());
            items.extend(1u16.to_le_bytes());
            items.extend([len, len].concat());
            items.push(b'k');
            items.extend_from_slice(value);
        }
        let mut group = vec![START];
        group.extend((values.len() as u32).to_le_bytes());
        group.extend(number.to_le_bytes());
        group.extend_from_slice(&items);
        group.push(END);
        group.extend(twox_hash::XxHash3_64::oneshot(&items).to_le_bytes());
        group.extend(TRAILER);
        group
    }

    fn journal() -> (Vec<u8>, usize) {
        let groups = [
            write_group(1, &[b"one", b"two"]),
            write_group(2, &[b"three"]),
            write_group(5, &[&[b'x'; 3 * PAGE_BYTES]]),
        ];
        let last = groups[2].len();
        let mut journal = groups.concat();
        let end = journal.len();
        journal.extend([0; 99]);
        (journal, end - last)
    }

    #[test]
    fn every_cut_can_be_left_by_a_crash() {
        let (journal, _) = journal();
        for cut in 0..=journal.len() {
            let scan = scan(&journal[..cut], true, Some(0)).expect("not damaged");
            assert!(scan.end <= cut && scan.groups <= 3);
        }
        let scan = scan(&journal, false, None).expect("not damaged");
        assert_eq!((scan.groups, scan.last, scan.is_torn), (3, Some(5), false));
    }

    #[test]
    fn only_the_last_group_may_lack_a_page() {
        let (mut journal, last) = journal();
        let page = last.next_multiple_of(PAGE_BYTES);
        journal[page..page + PAGE_BYTES].fill(0);
        let found = scan(&journal, true, None).expect("a crash");
        assert_eq!((found.groups, found.end, found.is_torn), (2, last, true));
        assert!(scan(&journal, false, None).is_err());
        let end = journal.len() - 99;
        let next = write_group(6, &[b"four"]);
        journal[end..end + next.len()].copy_from_slice(&next);
        assert!(scan(&journal, true, None).is_err());
    }

    #[test]
    fn changed_bytes_are_found_except_at_the_very_end() {
        let (journal, last) = journal();
        let end = journal.len() - 99;
        for at in (0..last + 200).chain(end - 300..end - 13) {
            let mut changed = journal.clone();
            changed[at] ^= 0xff;
            // Sequence numbers are compared with each other: those of the first and last group may be greater.
            let is_number = (5..13).contains(&at) || (last + 5..last + 13).contains(&at);
            assert!(
                scan(&changed, true, None).is_err() || is_number,
                "byte {at}"
            );
        }
    }

    #[test]
    fn sequence_numbers_must_grow() {
        let journal = [write_group(2, &[b"a"]), write_group(2, &[b"b"])].concat();
        assert!(scan(&journal, true, None).is_err());
        assert!(scan(&write_group(3, &[b"a"]), true, Some(3)).is_err());
    }
}
