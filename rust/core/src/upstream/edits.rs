//! The edits of a request's body for one attempt.

use std::ops::Range;

use bytes::Bytes;

use crate::upstream::scan::Scan;
use sans_io::{
    api::usage,
    codec::{
        json::{PlaceForModel, Scanner},
        splice::{Splice, spliced},
    },
    table::Target,
};

/// The changes that one attempt makes in the body.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    /// The target whose name for the model replaces the client's; None: the name stays.
    pub(crate) rename: Option<&'a Target>,
    /// Whether a stream is asked for its usage.
    pub(crate) ask_usage: bool,
    /// The repaired messages in place of the client's; None: those stay.
    pub(crate) messages: Option<Splice>,
    /// The body in place of the client's; None: the client's is sent.
    pub(crate) substitute: Option<Bytes>,
}

/// The edits of one attempt, by their positions in the client's body.
#[derive(Debug, Default)]
pub(super) struct Edits {
    model: Option<Splice>,
    messages: Option<Splice>,
    usage: UsageEdit,
}

/// The edit by which a stream is asked for its usage.
#[derive(Debug, Default, PartialEq, Eq)]
enum UsageEdit {
    /// No edit: the attempt asks for no usage, or the client does not stream, whatever its options.
    #[default]
    None,
    /// The place of the edit is not known yet: it is in the client's own `stream_options` or at the
    /// end of the object, and neither was received; or whether the client streams is not.
    Pending,
    /// No edit: the client asks for the usage itself.
    AskedByClient,
    /// The edit.
    Made(Splice),
}

impl Edits {
    /// The edits of an attempt. The model was seen already: a route was found by it.
    pub(super) fn new(changes: Changes<'_>, scan: &Scan) -> Self {
        let model = changes.rename.and_then(|target| renamed(target, scan));
        let usage = if changes.ask_usage { UsageEdit::Pending } else { UsageEdit::None };
        Self { model, messages: changes.messages, usage }
    }

    /// Settles the edit for usage, if its place is known by now. `may_wait`: whether bytes behind
    /// `stream_options` may wait for a `stream`. `bytes` gives a range of the body; None: it is not
    /// in memory yet.
    pub(super) fn settle_usage(
        &mut self,
        scan: &Scan,
        may_wait: bool,
        bytes: impl FnOnce(Range<u64>) -> Option<Vec<u8>>,
    ) {
        if self.usage == UsageEdit::Pending
            && let Some(scanner) = scan.json()
            && let Some(usage) = UsageEdit::settled(scanner, may_wait, bytes)
        {
            self.usage = usage;
        }
    }

    /// The position of the client's `stream_options`, behind which bytes wait.
    pub(super) fn waits_behind(&self, scan: &Scan) -> Option<u64> {
        let scanner = scan.json().filter(|_| self.usage == UsageEdit::Pending)?;
        scanner.stream_options().map(|range| range.start)
    }

    /// The position from which on bytes must wait, since they may have to be edited.
    pub(super) fn held_from(&self, scan: &Scan) -> u64 {
        let Some(scanner) = scan.json().filter(|_| self.usage == UsageEdit::Pending) else {
            return u64::MAX;
        };
        let not_in_memory = || scanner.stream_options().map(|range| range.start);
        scanner.open_stream_options().or_else(not_in_memory).unwrap_or(u64::MAX)
    }

    /// The bytes by which the body grows; negative: it shrinks; None: unknown yet.
    pub(super) fn growth(&self) -> Option<i64> {
        let of_usage = match &self.usage {
            UsageEdit::Pending => return None,
            UsageEdit::Made(splice) => splice.growth(),
            UsageEdit::None | UsageEdit::AskedByClient => 0,
        };
        let others = [&self.model, &self.messages].into_iter().flatten();
        Some(of_usage + others.map(Splice::growth).sum::<i64>())
    }

    /// Whether the client itself asks for a stream's usage. False also where the attempt does not.
    pub(super) fn usage_asked_by_client(&self) -> bool {
        self.usage == UsageEdit::AskedByClient
    }

    /// Pushes the parts of an edited piece, which starts at the position `start`.
    pub(super) fn apply(&self, piece: Bytes, start: u64, push: impl FnMut(Bytes)) {
        let usage = match &self.usage {
            UsageEdit::Made(splice) => Some(splice),
            _ => None,
        };
        // A client may write `stream_options` before `model`, and `messages` anywhere.
        let mut in_order = match (&self.model, usage) {
            (Some(model), Some(usage)) if usage.range.start < model.range.start => {
                [Some(usage), Some(model), None]
            }
            (model, usage) => [model.as_ref(), usage, None],
        };
        if let Some(messages) = &self.messages {
            in_order[2] = Some(messages);
            in_order.sort_unstable_by_key(|splice| splice.map(|splice| splice.range.start));
        }
        spliced(piece, start, in_order.into_iter().flatten(), push);
    }
}

/// The edit by which the body names a target's model; None: the body is not read.
fn renamed(target: &Target, scan: &Scan) -> Option<Splice> {
    if let Some(model) = scan.model() {
        // A form has the name as it is, a JSON body as a JSON string.
        let text = match scan {
            Scan::Form(_) => Bytes::copy_from_slice(target.served_name.as_bytes()),
            Scan::None | Scan::Json(_) | Scan::Watched { .. } => target.served_json.clone(),
        };
        return Some(Splice { range: model.range.clone(), text });
    }
    Some(match scan.json()?.place_for_model()? {
        PlaceForModel::Value(range) => Splice { range, text: target.served_json.clone() },
        PlaceForModel::NewMember(end) => {
            let text = [br#","model":"#, &*target.served_json].concat().into();
            Splice { range: end..end, text }
        }
    })
}

impl UsageEdit {
    /// The settled state of a pending edit; None: it stays pending.
    fn settled(
        scanner: &Scanner,
        may_wait: bool,
        bytes: impl FnOnce(Range<u64>) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let (streams, end) = (scanner.stream(), scanner.object_end());
        // The options of a request without a stream are nobody's business here.
        if let Some(end) = end.filter(|_| !streams || scanner.stream_options().is_none()) {
            let text = Bytes::from_static(usage::STREAM_OPTIONS_MEMBER);
            return Some(if streams {
                Self::Made(Splice { range: end..end, text })
            } else {
                Self::None
            });
        }
        let range = scanner.stream_options()?;
        let options = bytes(range.clone())?;
        let Some(edit) = usage::ask_for_usage(&options) else { return Some(Self::AskedByClient) };
        if !streams && may_wait {
            return None;
        }
        // Unknown whether it streams: then only an object is edited, which means something alone
        // where it does.
        if !streams && !options.starts_with(b"{") {
            return Some(Self::None);
        }
        let (from, to) = (edit.range.start as u64, edit.range.end as u64);
        let range = range.start + from..range.start + to;
        Some(Self::Made(Splice { range, text: edit.text }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(body: &[u8]) -> Scan {
        let mut scanner = Scanner::new(9);
        scanner.feed(body).unwrap();
        Scan::Json(scanner)
    }

    /// The edits of an attempt that begins when this much of the body has come.
    fn asking(body: &[u8]) -> (Scan, Edits) {
        asking_while(true, body)
    }

    fn asking_while(may_wait: bool, body: &[u8]) -> (Scan, Edits) {
        let scan = scanned(body);
        let mut edits = Edits::new(Changes { ask_usage: true, ..Changes::default() }, &scan);
        let bytes = |range: Range<u64>| {
            body.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec)
        };
        edits.settle_usage(&scan, may_wait, bytes);
        (scan, edits)
    }

    #[test]
    fn the_edit_for_usage_waits_for_its_place() {
        let (scan, edits) = asking(br#"{"model":"m","stream":true"#);
        assert_eq!(edits.usage, UsageEdit::Pending);
        assert_eq!((edits.growth(), edits.held_from(&scan)), (None, u64::MAX));
        let (scan, edits) = asking(br#"{"model":"m","stream_options":{"#);
        assert_eq!(edits.usage, UsageEdit::Pending);
        assert_eq!(edits.held_from(&scan), 30, "no byte of the open options goes on");
        let (_, edits) = asking(br#"{"model":"m","stream":true}"#);
        assert!(edits.growth().is_some_and(|growth| growth > 0));
    }

    #[test]
    fn there_is_no_edit_where_the_client_asks_or_does_not_stream() {
        let (_, edits) = asking(br#"{"model":"m","stream_options":{"include_usage":true}"#);
        assert!(edits.usage_asked_by_client());
        assert_eq!(edits.growth(), Some(0));
        let (_, edits) = asking(br#"{"model":"m"}"#);
        assert_eq!(edits.usage, UsageEdit::None);
        assert_eq!(edits.growth(), Some(0));
    }

    #[test]
    fn options_of_a_type_that_engines_refuse_stay_for_them_to_refuse() {
        for options in ["true", "[]", "1", r#""include_usage""#] {
            for stream in ["", r#","stream":false"#, r#","stream":true"#] {
                let open = format!(r#"{{"model":"m","stream_options":{options}{stream}"#);
                let (_, edits) = asking(open.as_bytes());
                assert!(!matches!(edits.usage, UsageEdit::Made(_)), "{open}");
                let (scan, edits) = asking(format!("{open}}}").as_bytes());
                assert!(!matches!(edits.usage, UsageEdit::Made(_)), "{open}");
                assert_eq!((edits.growth(), edits.waits_behind(&scan)), (Some(0), None));
            }
        }
    }

    #[test]
    fn the_options_of_a_request_without_a_stream_stay_as_they_are() {
        for options in ["null", "{}", r#"{"include_usage":false}"#] {
            for stream in ["", r#","stream":false"#, r#","stream":null"#] {
                let open = format!(r#"{{"model":"m","stream_options":{options}{stream}"#);
                let (scan, edits) = asking(open.as_bytes());
                assert_eq!(edits.usage, UsageEdit::Pending, "{open}");
                assert_eq!((edits.held_from(&scan), edits.waits_behind(&scan)), (30, Some(30)));
                let (_, edits) = asking(format!("{open}}}").as_bytes());
                assert_eq!((&edits.usage, edits.growth()), (&UsageEdit::None, Some(0)), "{open}");
                // A request that streams is edited, whatever the order.
                for body in [
                    format!(r#"{open},"stream":true"#),
                    format!(r#"{{"stream":true,"model":"m","stream_options":{options}"#),
                ] {
                    let (scan, edits) = asking(body.as_bytes());
                    assert!(matches!(edits.usage, UsageEdit::Made(_)), "{body}");
                    assert_eq!(edits.waits_behind(&scan), None);
                }
                // Where no more may wait, no value becomes one of another type.
                let (_, edits) = asking_while(false, open.as_bytes());
                assert_eq!(
                    matches!(edits.usage, UsageEdit::Made(_)),
                    options.starts_with('{'),
                    "{open}"
                );
            }
        }
    }

    #[test]
    fn a_body_without_a_model_gets_the_targets_wherever_its_place_is() {
        use sans_io::{table::Table, test_support};
        let model = test_support::model("m", "org/\"M\"", vec![]);
        let route = test_support::route("r", vec![test_support::target("m", 1)]);
        let table = test_support::read(test_support::table(vec![model], vec![route]));
        let table = Table::default().replaced_by(table).unwrap().0;
        let target = table.route("r").unwrap().targets().next().unwrap();
        for (members, rest) in [
            (r#""model":null"#, ""),
            (r#""model": "" "#, r#", "x":1"#),
            (r#""model":"  ""#, r#","model2":{"model":"n"}"#),
            (r#""messages":[{"model":"inner"}]"#, ""),
            (r#""stream":true,"n":1"#, ""),
            (r#""stream":true,"mod\u0065l":null"#, r#","stream_options":null"#),
        ] {
            let body = format!(" {{{members}{rest}}}\n");
            let mut scanner = Scanner::new(9);
            scanner.allow_no_model();
            scanner.feed(body.as_bytes()).unwrap();
            scanner.end().unwrap();
            let scan = Scan::Json(scanner);
            let changes = Changes { rename: Some(target), ask_usage: true, ..Changes::default() };
            let mut edits = Edits::new(changes, &scan);
            edits.settle_usage(&scan, true, |range| {
                body.as_bytes().get(range.start as usize..range.end as usize).map(<[u8]>::to_vec)
            });
            let mut sent = Vec::new();
            edits.apply(Bytes::copy_from_slice(body.as_bytes()), 0, |part| sent.extend(part));
            let before: serde_json::Value = serde_json::from_str(&body).unwrap();
            let mut after: serde_json::Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(after["model"], "org/\"M\"", "{body}");
            let growth = edits.growth().unwrap();
            assert_eq!(body.len().checked_add_signed(growth as isize), Some(sent.len()), "{body}");
            if before["stream"] == true {
                assert_eq!(after["stream_options"]["include_usage"], true, "{body}");
            }
            for (name, value) in before.as_object().unwrap() {
                if !["model", "stream_options"].contains(&name.as_str()) {
                    assert_eq!(after[name].take(), *value, "{body}");
                }
            }
        }
    }

    #[test]
    fn options_that_are_not_in_memory_are_held_back_until_they_are() {
        let scan = scanned(br#"{"model":"m","stream_options":{},"stream":true,"#);
        let mut edits = Edits::new(Changes { ask_usage: true, ..Changes::default() }, &scan);
        edits.settle_usage(&scan, true, |_| None);
        assert_eq!(edits.usage, UsageEdit::Pending);
        assert_eq!(edits.held_from(&scan), 30);
        edits.settle_usage(&scan, true, |_| Some(b"{}".to_vec()));
        assert!(matches!(edits.usage, UsageEdit::Made(_)));
        assert_eq!(edits.held_from(&scan), u64::MAX);
    }
}
