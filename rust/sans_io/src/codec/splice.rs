//! Edits of byte ranges in a body that passes in pieces.

use std::ops::Range;

use bytes::{Buf, Bytes};

/// The replacement of a byte range of a body; an empty range is a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The bytes that go, counted from the body's first.
    pub range: Range<u64>,
    /// The bytes that come in their place.
    pub text: Bytes,
}

impl Splice {
    /// By how many bytes the body becomes longer.
    pub fn growth(&self) -> i64 {
        (self.text.len() as u64).cast_signed() - (self.range.end - self.range.start).cast_signed()
    }
}

/// The place of a text in the body that it is a part of.
pub(crate) fn place_in(body: impl AsRef<[u8]>, part: impl AsRef<[u8]>) -> Range<usize> {
    let (body, part) = (body.as_ref(), part.as_ref());
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

/// The bytes with these ranges replaced, which do not overlap; None without any.
pub(crate) fn edited(
    bytes: &[u8],
    mut edits: Vec<(Range<usize>, impl AsRef<[u8]>)>,
) -> Option<Vec<u8>> {
    if edits.is_empty() {
        return None;
    }
    edits.sort_by_key(|(range, _)| range.start);
    let gone: usize = edits.iter().map(|(range, _)| range.len()).sum();
    let come: usize = edits.iter().map(|(_, text)| text.as_ref().len()).sum();
    // In one piece from the start: it may be a large document.
    let mut edited = Vec::with_capacity(bytes.len().saturating_sub(gone) + come);
    let mut copied = 0;
    for (range, text) in &edits {
        edited.extend_from_slice(&bytes[copied..range.start]);
        edited.extend_from_slice(text.as_ref());
        copied = range.end;
    }
    edited.extend_from_slice(&bytes[copied..]);
    Some(edited)
}

/// Pushes a piece that starts at `start` in its body, with each splice's text where its range
/// begins and nothing where the range goes on. The splices are in the order of their places and do
/// not overlap.
pub fn spliced<'a>(
    mut piece: Bytes,
    start: u64,
    splices: impl IntoIterator<Item = &'a Splice>,
    mut push: impl FnMut(Bytes),
) {
    let end = start + piece.len() as u64;
    let mut at = start;
    for splice in splices {
        let Range { start: from, end: to } = splice.range;
        let begins_here = (start..end).contains(&from);
        if !begins_here && (to <= start || from >= end) {
            continue;
        }
        push(piece.split_to(from.saturating_sub(at) as usize));
        if begins_here {
            push(splice.text.clone());
        }
        // The rest of a range that ends in a later piece is dropped there.
        let next = to.min(end);
        piece.advance((next - from.max(at)) as usize);
        at = next;
    }
    push(piece);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(body: &[u8], cuts: &[prop::sample::Index]) -> Vec<Range<usize>> {
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(body.len())).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    fn sent(body: &[u8], pieces: Vec<Range<usize>>, splices: &[Splice]) -> Vec<u8> {
        let mut sent = Vec::new();
        for range in pieces {
            let piece = Bytes::copy_from_slice(&body[range.clone()]);
            spliced(piece, range.start as u64, splices, |part| sent.extend_from_slice(&part));
        }
        sent
    }

    proptest! {
        #[test]
        fn a_splice_replaces_its_range_whatever_the_pieces(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            range in any::<(prop::sample::Index, prop::sample::Index)>(),
            text in proptest::collection::vec(any::<u8>(), 1..20),
        ) {
            let (a, b) = (range.0.index(body.len()), range.1.index(body.len()));
            let range = a.min(b)..a.max(b) + 1;
            let splice = Splice {
                range: range.start as u64..range.end as u64,
                text: text.clone().into(),
            };
            let growth = splice.growth();
            let sent = sent(&body, cut(&body, &cuts), &[splice]);
            let expected = [&body[..range.start], &text, &body[range.end..]].concat();
            prop_assert_eq!((body.len() as u64).checked_add_signed(growth), Some(sent.len() as u64));
            prop_assert_eq!(sent, expected);
        }

        #[test]
        fn two_splices_replace_their_ranges_whatever_the_pieces(
            body in proptest::collection::vec(any::<u8>(), 4..200),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            places in proptest::collection::vec(any::<prop::sample::Index>(), 4),
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 2),
        ) {
            let mut places: Vec<usize> =
                places.iter().map(|place| place.index(body.len())).collect();
            places.sort_unstable();
            let [a, b, c, d] = places[..] else { unreachable!() };
            let splice = |range: Range<usize>, text: &Vec<u8>| Splice {
                range: range.start as u64..range.end as u64,
                text: text.clone().into(),
            };
            let splices = [splice(a..b, &texts[0]), splice(c..d, &texts[1])];
            let sent = sent(&body, cut(&body, &cuts), &splices);
            let expected =
                [&body[..a], &texts[0], &body[b..c], &texts[1], &body[d..]].concat();
            prop_assert_eq!(sent, expected);
        }
    }
}
