//! The guide to limits: every number in its tables is that of a constant or of a setting's default.
//!
//! The constants are read from the source, so that they can stay private to their modules.

use std::{fs, path::Path};

use clap::{Args, Command};
use newsfeed::{config::Config, docs::GUIDES, http::problem::Code};

/// A row by the beginning of its first cell, and what the numbers of its second cell are, in their order: a constant, a
/// flag, or a number that the protocol or arithmetic gives. `KiB`, `MiB` and `s` follow the number in the text.
const ROWS: &[(&str, &[&str])] = &[
    ("name of a feed", &["1", "NAME_BYTES_MAX"]),
    ("id of an event", &["1", "NAME_BYTES_MAX"]),
    ("feeds of an event", &["1", "EVENT_FEEDS_MAX"]),
    ("`data` of an event", &["DATA_BYTES_MAX", "DATA_DEPTH_MAX"]),
    ("`time` of an event", &["20", "TIME_BYTES_MAX"]),
    ("bytes of `data`", &["DATA_FANOUT_BYTES_MAX"]),
    ("events in an array", &["1", "ARRAY_EVENTS_MAX"]),
    ("events of an atomic append", &["1", "ATOMIC_EVENTS_MAX"]),
    ("conditions of an atomic append", &["ATOMIC_EXPECTS_MAX"]),
    (
        "keys and values of an atomic",
        &["append/mod/BATCH_BYTES_MAX"],
    ),
    ("id of a change", &["1", "CHANGE_ID_BYTES_MAX"]),
    ("edits of an event", &["EDITS_KEPT_MAX"]),
    ("`data` of an edit", &[]),
    ("events of an erasure", &["1", "ERASURE_EVENTS_MAX"]),
    ("erasures under way", &["JOBS_OPEN_MAX"]),
    ("ended erasures", &["JOBS_KEPT_MAX"]),
    ("time until an erasure", &["ANSWER_AFTER"]),
    ("changes of one event each", &["CHANGES_AT_ONCE_MAX"]),
    ("events that one transaction", &["ERASED_AT_ONCE_MAX"]),
    (
        "JSON body",
        &[
            "http/body/BODY_BYTES_MAX",
            "TRANSIENT_BODY_BYTES_MAX",
            "EDIT_BODY_BYTES_MAX",
            "ERASURE_BODY_BYTES_MAX",
            "TICKET_BODY_BYTES_MAX",
            "STATES_BODY_BYTES_MAX",
            "SMALL_BODY_BYTES_MAX",
        ],
    ),
    ("line of NDJSON", &["LINE_BYTES_MAX"]),
    ("silence inside a body", &["BODY_STALL_MAX"]),
    ("time for a whole JSON body", &["BODY_TIME_MAX"]),
    ("rest of a body", &["LINGER_BYTES_MAX", "LINGER"]),
    // `limits::strict` sends more.
    ("`Host` header", &["1", "1"]),
    ("compression of a body", &[]),
    // hyper takes 100 headers of HTTP/1.1 unless told otherwise; `limits::urls` sends more.
    ("URL and headers", &["HEAD_BYTES_MAX", "100"]),
    ("`Link` header", &["LINK_BYTES_MAX"]),
    ("base path", &["BASE_PATH_BYTES_MAX"]),
    ("time for a request head", &["HEAD_TIMEOUT"]),
    ("`detail` of an error", &["DETAIL_BYTES_MAX"]),
    ("`X-Request-Id`", &["REQUEST_ID_BYTES_MAX"]),
    ("log filter", &["FILTER_BYTES_MAX"]),
    ("`seconds` of a log filter", &["1", "FALL_BACK_SECONDS_MAX"]),
    (
        "page",
        &[
            "PAGE_ENTRIES_MAX",
            "PAGE_ENTRIES_DEFAULT",
            "PAGE_BYTES_MAX",
            "PAGE_EXAMINED_MAX",
        ],
    ),
    (
        "page of the log",
        &[
            "PAGE_ENTRIES_MAX",
            "PAGE_ENTRIES_DEFAULT",
            "PAGE_BYTES_MAX",
            "LOG_PAGE_KEYS_MAX",
        ],
    ),
    ("times whose versions are noted", &["TIME_STEP"]),
    ("lines of the log", &["PART_BYTES_MAX"]),
    ("values of each filter", &["FILTER_VALUES_MAX"]),
    ("shards of the log", &["SHARDS_MAX"]),
    ("feeds of a merged page", &["1", "MERGED_FEEDS_MAX"]),
    ("kinds of a page", &["feed/page/KINDS_MAX"]),
    (
        "long poll (`wait`)",
        &[
            "http/query/WAIT_MAX",
            "WAIT_ENDS_MS.start ms",
            "WAIT_ENDS_MS.start ms",
            "WAIT_ENDS_MS.end ms",
        ],
    ),
    ("feeds whose states", &["1", "STATES_FEEDS_MAX"]),
    ("unread count", &["UNREAD_MAX"]),
    ("unread counts of states", &["UNREAD_TOGETHER_MAX"]),
    ("readers on a page", &["READERS_MAX", "READERS_DEFAULT"]),
    ("readers of a feed, entries marked", &[]),
    ("`marked` events", &["MARKS_TOLD_MAX"]),
    ("`marker` events", &["4/s"]),
    (
        "memory of a node for the unread",
        &["UNREAD_CACHE_BYTES_MAX"],
    ),
    (
        "memory of a node for first pages",
        &["PAGE_CACHE_BYTES_MAX"],
    ),
    ("feeds, news of changes in feeds", &["TRACKED_MAX"]),
    (
        "reads at once",
        &["JOBS_MAX", "FDB_READS_AT_ONCE", "TURNS_PER_READ"],
    ),
    (
        "reads that wait for their first",
        &["READS_WAITING_MAX", "READ_WAIT_MAX"],
    ),
    (
        "streams and long polls of a node",
        &["STREAMS_MAX", "PLACE_FEEDS", "PLACE_FEEDS"],
    ),
    ("entries that wait", &["QUEUE_ITEMS_MAX", "QUEUE_BYTES_MAX"]),
    (
        "entries that one stream has read",
        &["SHARED_BYTES_MAX", "SHARED_FOR"],
    ),
    ("idle stream", &["HEARTBEAT"]),
    (
        "`retry` of a stream",
        &["RETRY_MS.start ms", "RETRY_MS.end ms"],
    ),
    ("transients for a late stream", &["TRANSIENT_LIFE"]),
    ("retention rules", &["RULES_MAX"]),
    (
        "`entries` of a retention",
        &["1", "retention/mod/ENTRIES_MAX"],
    ),
    ("age of a retention rule", &["AGE_MIN", "DAYS_MAX"]),
    ("time in which a client takes no byte", &["WRITE_STALL_MAX"]),
    ("memory for answers", &["--answer-memory-mib MiB"]),
    (
        "the part of it that one caller",
        &["--caller-answer-memory-mib MiB"],
    ),
    ("results of NDJSON", &["ANSWER_CHUNKS_MAX", "CHUNK_LINES"]),
    ("append queue of a node", &["QUEUE_KIB_MAX KiB", "1 KiB"]),
    ("wait of the oldest append", &["--append-queue-ms ms"]),
    (
        "append queue that has not been empty",
        &["STANDING_EVENTS_MIN"],
    ),
    ("atomic appends under way", &["ATOMIC_IN_FLIGHT_MAX"]),
    ("append while the store is away", &["RETRY_FOR"]),
    ("reused ids", &["REUSED_LOOKED_UP_MAX"]),
    ("transients on their way", &["TRANSIENTS_IN_FLIGHT_MAX"]),
    ("free disk space", &["--disk-reserve-mib MiB"]),
    (
        "requests of a caller",
        &["--caller-requests-per-s", "REQUESTS_BURST_S s"],
    ),
    (
        "bytes in bodies of a caller",
        &["--caller-bytes-per-s", "BYTES_BURST_S s"],
    ),
    ("wait of a body", &["http/limits/WAIT_MAX"]),
    (
        "events of a caller",
        &["--caller-events-per-s", "STORED_BURST"],
    ),
    (
        "keys and values that",
        &["--caller-stored-bytes-per-s", "STORED_BURST"],
    ),
    ("streams and long polls of a caller", &["--caller-streams"]),
    ("memory for bodies", &["--body-memory-mib MiB"]),
    (
        "the part of it that one caller",
        &["--caller-body-memory-mib MiB"],
    ),
    ("body that takes none", &["UNCOUNTED_BYTES_MAX"]),
    ("IPv6 network", &["--network-callers"]),
    ("callers counted", &["CALLERS_MAX", "COUNTERS"]),
    ("addresses to listen on", &["PLACES_MAX"]),
    // The size of the system's `sockaddr_un`, which the kernel requires to end with a zero.
    ("path of a unix socket", &["107"]),
    ("connections of an address", &["--peer-connections"]),
    ("connections of a node", &["CONNECTIONS_MAX"]),
    ("client that acknowledges", &["UNACKNOWLEDGED_MAX"]),
    ("requests at a time", &["HTTP2_STREAMS_MAX"]),
    (
        "requests over HTTP/2 of an address",
        &["--peer-connections"],
    ),
    ("requests over HTTP/2 of a node", &["HTTP2_REQUESTS_MAX"]),
    ("TLS handshake", &["HANDSHAKE_TIME_MAX"]),
    ("TLS handshakes at a time", &["HANDSHAKES_MAX"]),
    ("HTTP/2 PING", &["HTTP2_PONG_MAX"]),
    (
        "token",
        &["TOKEN_BYTES_MAX", "PATTERNS_MAX", "SUBJECT_BYTES_MAX"],
    ),
    ("token in a cookie", &["COOKIE_TOKEN_BYTES_MAX"]),
    ("different cookies with a token", &["COOKIE_TOKENS_MAX"]),
    (
        "ticket",
        &["MERGED_FEEDS_MAX", "TICKET_BYTES_MAX", "--auth-ticket-s s"],
    ),
    ("key file or JWKS", &["KEYS_MAX", "KEYS_BYTES_MAX"]),
    ("RSA key", &["RSA_BYTES_MIN bytes in bits"]),
    ("file of secrets", &["SECRETS_MAX", "SECRET_BYTES_MIN"]),
    ("fetch of a JWKS", &["FETCH_TIME_MAX", "UNKNOWN_KID_PAUSE"]),
    ("verified tokens", &["CACHED_TOKENS_MAX"]),
    ("backups of a service", &["1"]),
    (
        "time in which the client of a backup",
        &["PART_TIME_MAX", "http/backup/PART_BYTES"],
    ),
    ("duration of a backup", &["12"]),
    ("time in which commits wait", &["embedded/pin/PAUSE_MAX"]),
    ("request for a backup", &["BACKUP_BODY_BYTES_MAX"]),
    ("removed data", &["12"]),
    ("time to stop", &["--drain-time-ms ms"]),
];

/// Numbers in the first and last cell of a row, apart from HTTP statuses.
const ASIDE: &[(&str, &[&str])] = &[
    ("HTTP/2 PING", &["HTTP2_PING_EVERY"]),
    ("wait of a body", &["http/body/BODY_BYTES_MAX"]),
    ("IPv6 network", &["--ipv6-network-bits"]),
    (
        "append queue that has not been empty",
        &["PATIENT_EVENTS_MAX"],
    ),
    ("reused ids", &["CHUNK_LINES"]),
    ("callers counted", &["SHARED"]),
    ("connections of a node", &["BACKLOG"]),
];

#[test]
fn the_numbers_are_those_of_the_program() {
    let sources = Sources::read();
    let mut rows = ROWS.iter();
    for cells in table_rows() {
        let (start, wanted) = rows.next().expect("no row that the test does not know");
        assert!(
            cells[0].starts_with(start),
            "{:?} where {start:?} is wanted",
            cells[0]
        );
        let wanted: Vec<_> = wanted.iter().map(|name| sources.shown(name)).collect();
        assert_eq!(numbers(&cells[1]), wanted, "{}", cells[0]);
        let aside = ASIDE.iter().find(|(row, _)| row == start);
        let wanted: Vec<_> = aside
            .iter()
            .flat_map(|(_, names)| names.iter())
            .map(|name| sources.shown(name))
            .collect();
        let outside = [numbers(&cells[0]), numbers(&cells[2])].concat();
        let outside: Vec<_> = outside
            .into_iter()
            .filter(|number| !is_status(number))
            .collect();
        assert_eq!(outside, wanted, "{}: beside the limit", cells[0]);
    }
    assert!(rows.next().is_none(), "a row is missing");
}

fn is_status(number: &str) -> bool {
    Code::ALL
        .iter()
        .any(|code| code.status().as_str() == number)
        || ["414", "431"].contains(&number)
}

/// `409 `code`` is a status and a code that go together.
#[test]
fn codes_have_the_status_beside_them() {
    for cells in table_rows() {
        let mut status = None;
        for word in cells[2].split([' ', ',', ';', ':']) {
            if word.len() == 3 && is_status(word) {
                status = Some(word.to_owned());
            }
            let name = word.trim_matches('`');
            if word.starts_with('`')
                && name != "version"
                && !name.starts_with('-')
                && name.contains('_')
            {
                let code = Code::ALL.iter().find(|code| code.name() == name);
                let code = code.unwrap_or_else(|| panic!("{name} in {}", cells[0]));
                if let Some(status) = &status {
                    assert_eq!(code.status().as_str(), status, "{name} in {}", cells[0]);
                }
            }
        }
    }
}

/// The cells of all rows of all tables of the guide.
fn table_rows() -> Vec<Vec<String>> {
    let guide = GUIDES
        .iter()
        .find(|guide| guide.slug == "limits")
        .expect("a guide");
    let rows = guide.text.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| what |") && !line.starts_with("| --- |"));
    rows.map(|line| {
        let cells = line
            .trim_start_matches("| ")
            .trim_end_matches('|')
            .split(" | ");
        let cells: Vec<_> = cells.map(|cell| cell.trim().to_owned()).collect();
        match cells.len() {
            2 => [cells, vec![String::new()]].concat(),
            3 => cells,
            _ => panic!("{line}"),
        }
    })
    .collect()
}

/// The numbers of a text, each with its unit; those in code are something else.
fn numbers(cell: &str) -> Vec<String> {
    let prose: String = cell.split('`').step_by(2).collect::<Vec<_>>().join("");
    // Names with digits in them are no numbers.
    let prose = prose
        .replace("HTTP/1.1", "")
        .replace("HTTP/2", "")
        .replace("IPv6", "")
        .replace("HS256", "");
    let words: Vec<&str> = prose.split_whitespace().collect();
    let mut numbers = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let (bare, per) = bare
            .strip_suffix("/s")
            .map_or((bare, ""), |bare| (bare, "/s"));
        if !bare.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let next = words
            .get(index + 1)
            .map_or("", |next| next.trim_end_matches([',', ';', '.', ':', ')']));
        let unit = match next.trim_end_matches("/s") {
            unit @ ("KiB" | "MiB" | "s") if !word.ends_with([',', ';']) => format!(" {unit}"),
            _ => String::new(),
        };
        let per = if next.ends_with("/s") { "/s" } else { per };
        numbers.push(format!("{}{unit}{per}", bare.replace(',', "")));
    }
    numbers
}

struct Sources {
    text: Vec<(String, String)>,
    serve: Command,
}

impl Sources {
    fn read() -> Self {
        let mut text = Vec::new();
        collect(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut text,
        );
        Self {
            text,
            serve: Config::augment_args(Command::new("serve")),
        }
    }

    /// As the guide shows it.
    fn shown(&self, what: &str) -> String {
        if what.starts_with(|c: char| c.is_ascii_digit()) {
            return what.to_owned();
        }
        let (name, unit) = what.split_once(' ').unwrap_or((what, ""));
        let (value, its_unit) = match name.strip_prefix("--") {
            Some(flag) => (self.default(flag), ""),
            None => self.constant(name),
        };
        let bytes = name.contains("BYTES") || name.contains("-bytes-");
        let per = if name.ends_with("-per-s") { "/s" } else { "" };
        match (unit, its_unit) {
            ("ms", _) if value % 1000 == 0 => format!("{} s", value / 1000),
            // Half a second and the like.
            ("ms", _) => format!("{}", value as f64 / 1000.0),
            ("KiB", _) => size(value * 1024),
            ("bytes in bits", _) => format!("{}", value * 8),
            (_, "s") => format!("{value} s"),
            ("", _) if bytes && value % 1024 == 0 && value >= 8 * 1024 => size(value) + per,
            ("", _) => format!("{value}{per}"),
            (unit, _) => format!("{value} {unit}"),
        }
    }

    fn default(&self, flag: &str) -> u64 {
        let arg = self
            .serve
            .get_arguments()
            .find(|arg| arg.get_long() == Some(flag));
        let arg = arg.unwrap_or_else(|| panic!("no flag --{flag}"));
        let default = arg
            .get_default_values()
            .first()
            .and_then(|value| value.to_str());
        default
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("--{flag} has no number as its default"))
    }

    /// The value of a constant, and `s` if it is a time. A path before its name says where it is, if there are several.
    fn constant(&self, name: &str) -> (u64, &'static str) {
        let (place, name) = name.rsplit_once('/').unwrap_or(("", name));
        let (name, end) = name.split_once('.').unwrap_or((name, ""));
        let start = format!("const {name}: ");
        let files = self
            .text
            .iter()
            .filter(|(file, _)| file.contains(place) && !file.contains("/src/client/"));
        let found: Vec<&str> = files
            .flat_map(|(_, text)| text.split(&start).skip(1))
            .filter_map(|rest| rest.split_once(" = ")?.1.split(';').next())
            .collect();
        let [value] = found[..] else {
            panic!("there is not one constant {name}, but {found:?}");
        };
        let value = match (end, value.split_once("..=")) {
            ("start", Some((first, _))) => first,
            ("end", Some((_, last))) => last,
            _ => value,
        };
        let (value, unit) = match value.strip_prefix("Duration::from_secs(") {
            Some(rest) => (rest.trim_end_matches(')'), "s"),
            None => (value, ""),
        };
        let factors = value
            .split('*')
            .map(|factor| match factor.trim().replace('_', "").parse() {
                Ok(number) => number,
                Err(_) => self.constant(factor.trim()).0,
            });
        (factors.product(), unit)
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1024 * 1024) == 0 => format!("{} MiB", bytes / 1024 / 1024),
        bytes => format!("{} KiB", bytes / 1024),
    }
}

fn collect(folder: &Path, text: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push((
                path.display().to_string(),
                fs::read_to_string(&path).expect("text"),
            ));
        }
    }
}
