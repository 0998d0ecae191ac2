//! The body of one request, over as many attempts as it takes.
//!
//! [`Intake`] receives it from the client, [`Replay`] buffers it for the engine, and [`Edits`]
//! changes it for one attempt.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::{
    body_limits::BodyLimits,
    budget::{NoRoom, Share},
    failure::Failure,
    upstream::{
        connection::OutQueue, edits::Edits, framing::Framing, intake::Intake, replay::Replay,
    },
};
use sans_io::{
    api::error::ApiError,
    codec::{
        inflate::Coding,
        json::{Model, Scanner},
    },
};

pub(crate) use crate::upstream::{
    edits::Changes,
    scan::{Forbidden, Reading, adapter_forbidden, host_forbidden},
};

/// Bytes behind `stream_options` that wait in any case until it is known whether the client streams.
const WAITING_MAX: u64 = 64 * 1024;

/// So many bytes each request may hold in memory without a share of what all have.
const FREE: u64 = 16 * 1024;

/// One request's body.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    intake: Intake<B>,
    replay: Replay,
    edits: Edits,
    outgoing: Outgoing,
    /// What the body may not do.
    forbidden: Forbidden,
    /// The request's part of the memory for all of them.
    room: Share,
    /// Bytes that the request holds elsewhere: its translation, or a response that is collected.
    elsewhere: u64,
}

/// The bytes that this attempt has still to send.
#[derive(Debug)]
enum Outgoing {
    /// The rest of the client's body, edited, and its end.
    Body,
    /// A body in place of the client's.
    Substitute(Bytes),
    /// Nothing: everything was queued, the end included.
    Nothing,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B>
where
    B::Error: std::error::Error + 'static,
{
    /// A body of which nothing was received yet. `coding`: its compression. Fails with a 413 for a
    /// `Content-Length` over the limit, or a 400 for a form without a usable boundary.
    pub(crate) fn new(
        body: B,
        reading: Reading<'_>,
        coding: Option<Coding>,
        limits: &BodyLimits,
    ) -> Result<Box<Self>, ApiError> {
        // Boxed: it moves from attempt to attempt, with the whole state of the scan inside.
        Ok(Box::new(Self {
            intake: Intake::new(body, reading, coding, limits)?,
            replay: Replay::new(limits.configured.replay_bytes),
            edits: Edits::default(),
            outgoing: Outgoing::Body,
            forbidden: Forbidden::default(),
            room: Share::default(),
            elsewhere: 0,
        }))
    }

    /// Waits for the next piece, scans and buffers it. Ready also when the body is whole. Fails as
    /// [`Intake::poll_piece`] does, with `Rejected` as [`Upload::forbid`] does, or with
    /// `NoRoom`.
    pub(crate) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        ready!(self.poll_room(context))?;
        self.replay.push(ready!(self.intake.poll_piece(context))?);
        if self.forbidden != Forbidden::default() {
            self.intake.scan().check(self.forbidden)?;
        }
        self.replay.note_length(self.intake.received());
        Poll::Ready(Ok(()))
    }

    /// Takes all of a body that is whole into memory. Fails with `Spool` or `NoRoom`.
    pub(crate) fn poll_load(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.intake.start();
        while self.intake.is_unspooling() {
            ready!(self.poll_room(context))?;
            self.replay.push(ready!(self.intake.poll_unspool(context))?);
        }
        Poll::Ready(Ok(()))
    }
}

impl<B> Upload<B> {
    /// Takes memory for this many bytes that the request holds beside its body. Fails with `NoRoom`.
    pub(crate) fn poll_hold(
        &mut self,
        context: &mut Context<'_>,
        elsewhere: u64,
    ) -> Poll<Result<(), Failure>> {
        self.elsewhere = elsewhere;
        self.poll_room(context)
    }

    /// The most bytes that this request and all others of its kind of caller may hold.
    pub(crate) fn room_limit(&self) -> u64 {
        self.intake.rooms().memory.limit()
    }

    /// Takes the share of memory out, for work that holds the body and may outlive this request. Until
    /// `put_room` puts it back nothing else may be held.
    pub(crate) fn take_room(&mut self) -> Share {
        std::mem::take(&mut self.room)
    }

    /// Puts that share back.
    pub(crate) fn put_room(&mut self, room: Share) {
        self.room = room;
    }

    /// Gives back what is not needed beside the body and this many bytes elsewhere.
    pub(crate) fn settle(&mut self, elsewhere: u64) {
        self.elsewhere = elsewhere;
        self.room.shrink(self.held());
    }

    /// What counts in the memory of all requests, in bytes.
    fn held(&self) -> u64 {
        self.replay.held() + self.intake.decoder_bytes() + self.elsewhere
    }

    /// Takes memory for what is held. One piece more may come before it is taken for that.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let held = self.held();
        if held <= FREE.max(self.room.bytes()) {
            return Poll::Ready(Ok(()));
        }
        let memory = &self.intake.rooms().memory;
        self.room.poll_grow(context, memory, held).map_err(|NoRoom| Failure::NoRoom)
    }

    /// Starts an attempt with these changes. Returns the number of bytes that it will send; None:
    /// unknown before the body's end.
    pub(crate) fn start_attempt(&mut self, mut changes: Changes<'_>) -> Option<u64> {
        self.intake.start();
        self.replay.rewind();
        if let Some(substitute) = changes.substitute.take() {
            let length = substitute.len() as u64;
            self.edits = Edits::default();
            self.outgoing = Outgoing::Substitute(substitute);
            return Some(length);
        }
        self.edits = Edits::new(changes, self.intake.scan());
        self.outgoing = Outgoing::Body;
        self.settle_usage();
        // Unknown even for a whole body, where the bytes to edit still lie in the file.
        let growth = self.edits.growth()?;
        self.intake.length()?.checked_add_signed(growth)
    }

    /// Queues the pieces that this attempt has not sent, and the end of the body behind the last
    /// one.
    pub(crate) fn send_into(&mut self, queue: &mut OutQueue, framing: Framing) {
        match &mut self.outgoing {
            Outgoing::Body => {}
            Outgoing::Substitute(body) => {
                queue.push(std::mem::take(body));
                self.outgoing = Outgoing::Nothing;
                return;
            }
            Outgoing::Nothing => return,
        }
        self.settle_usage();
        // Bytes that may still be edited must wait; see `Edits::held_from`.
        let held_from = self.edits.held_from(self.intake.scan());
        while let Some((start, piece)) = self.replay.next_before(held_from) {
            self.edits.apply(piece, start, |part| framing.push(queue, part));
        }
        if self.intake.is_drained() && self.replay.is_exhausted() {
            framing.end(queue);
            self.outgoing = Outgoing::Nothing;
        }
    }

    /// Frees what is held of the body, in memory and in the file: no attempt follows, and this one
    /// sends no more.
    pub(crate) fn release(&mut self) {
        self.replay.clear();
        self.intake.release();
        self.outgoing = Outgoing::Nothing;
        self.room.shrink(self.elsewhere);
    }

    /// Settles the edit for usage, if its place is known by now.
    fn settle_usage(&mut self) {
        let scan = self.intake.scan();
        // What is retained for another attempt is in memory anyway.
        let waiting = self.edits.waits_behind(scan).map(|start| self.intake.received() - start);
        let may_wait = waiting.is_none_or(|bytes| bytes <= self.replay.limit().max(WAITING_MAX));
        self.edits.settle_usage(scan, may_wait, |range| self.replay.bytes(range));
    }

    /// The bytes received so far, decoded.
    pub(crate) fn received(&self) -> u64 {
        self.intake.received()
    }

    /// Whether an engine may be given it: all of it, or the rest as it comes.
    pub(crate) fn has_head_start(&self) -> bool {
        self.intake.has_head_start()
    }

    /// The present wait for the client: since when, its limit, and the failure beyond that. None:
    /// something else is waited for.
    pub(crate) fn client_wait(&self) -> Option<(Instant, Option<Duration>, Failure)> {
        self.intake.client_wait()
    }

    /// All waiting for the client so far.
    pub(crate) fn waited(&self) -> Duration {
        self.intake.waited()
    }

    /// The model; None: not seen yet.
    pub(crate) fn model(&self) -> Option<&Model> {
        self.intake.scan().model()
    }

    /// Takes a JSON body without a model, into which that of the default route is put.
    pub(crate) fn allow_no_model(&mut self) {
        self.intake.allow_no_model();
    }

    /// Whether it was read whole and names no model.
    pub(crate) fn lacks_model(&self) -> bool {
        let scan = self.intake.scan();
        scan.model().is_none() && scan.json().is_some_and(|json| json.place_for_model().is_some())
    }

    /// Rejects (403) a body that does what is forbidden here, now or as soon as that part of it
    /// comes. No engine has the whole request by then.
    pub(crate) fn forbid(&mut self, what: Forbidden) -> Result<(), ApiError> {
        self.forbidden.adapters |= what.adapters;
        self.forbidden.hosts |= what.hosts;
        self.intake.scan().check(what)
    }

    /// Whether it may pick an adapter, or another model than `model`: it does, or is not scanned to
    /// its end.
    pub(crate) fn may_pick_adapter(&self) -> bool {
        let scan = self.intake.scan();
        !scan.is_finished() || scan.check(Forbidden { adapters: true, hosts: false }).is_err()
    }

    /// Whether the client asks for a stream, in the bytes received so far.
    pub(crate) fn asks_stream(&self) -> bool {
        self.intake.scan().asks_stream()
    }

    /// Whether the client itself asked for a stream's usage. False also where this attempt does not
    /// ask for it.
    pub(crate) fn asks_usage(&self) -> bool {
        self.edits.usage_asked_by_client()
    }

    /// The id of the earlier response that the request continues.
    pub(crate) fn previous_response_id(&self) -> Option<&str> {
        self.intake.scan().json().and_then(Scanner::previous_response_id)
    }

    /// Whether all of it was received, and found well-formed.
    pub(crate) fn is_whole(&self) -> bool {
        self.intake.is_whole()
    }

    /// Whether this attempt has queued all of it, the end included.
    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.outgoing, Outgoing::Nothing)
    }

    /// Whether another attempt could send all of it.
    pub(crate) fn is_replayable(&self) -> bool {
        self.replay.is_complete()
    }

    /// Whether another attempt could send all of it after this one has. A body of unknown length
    /// may still turn out too long for that.
    pub(crate) fn will_be_replayable(&self) -> bool {
        self.replay.will_retain(self.intake.declared())
    }

    /// The whole body in one piece, after `poll_load`.
    pub(crate) fn gather(&mut self) -> Bytes {
        self.replay.gather()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use sans_io::table::Target;

    use sans_io::test_support;

    use super::*;
    use crate::upstream::intake::tests::{Ready, limits};

    /// The upload of a body that has come whole.
    async fn received(
        body: Ready,
        reading: Reading<'_>,
        limits: &BodyLimits,
    ) -> Box<Upload<Ready>> {
        let mut upload = Upload::new(body, reading, None, limits).unwrap();
        while !upload.is_whole() {
            std::future::poll_fn(|context| upload.poll_receive(context)).await.unwrap();
        }
        upload
    }

    #[tokio::test]
    async fn a_second_attempt_sends_the_body_again_with_edits_of_its_own() {
        let pieces = [&br#"{"model": "#[..], br#""public"}"#].map(Bytes::from_static);
        let limits = limits(1_000, 1_000);
        let mut upload = received(Ready(pieces.into(), true), Reading::Json, &limits).await;
        let engine = target("engine");
        let mut queue = OutQueue::default();
        let mut send = |upload: &mut Upload<Ready>, changes| {
            let length = upload.start_attempt(changes);
            assert!(!upload.is_sent());
            upload.send_into(&mut queue, Framing::Length(0));
            assert!(upload.is_sent() && upload.is_replayable());
            let sent = String::from_utf8(queue.take_all()).unwrap();
            assert_eq!(length, Some(sent.len() as u64));
            sent
        };
        let substitute = Some(Bytes::from_static(b"in its place"));
        assert_eq!(send(&mut upload, Changes { substitute, ..Changes::default() }), "in its place");
        let changes = Changes { rename: Some(&engine), ..Changes::default() };
        assert_eq!(send(&mut upload, changes), r#"{"model": "engine"}"#);
        assert_eq!(send(&mut upload, Changes::default()), r#"{"model": "public"}"#);
    }

    #[tokio::test]
    async fn a_released_body_holds_no_byte_of_the_client() {
        // Kept for another attempt; and too large for that, most of it in the file.
        for limits in [limits(2_000_000, 2_000_000), limits(200_000, 300_000)] {
            let pieces: Vec<Bytes> = (0..9_u8).map(|byte| vec![byte; 100_000].into()).collect();
            let body = Ready(pieces.clone().into(), false);
            let mut upload = received(body, Reading::Carry, &limits).await;
            upload.start_attempt(Changes::default());
            let mut queue = OutQueue::default();
            upload.send_into(&mut queue, Framing::Length(0));
            drop(queue);
            upload.release();
            assert!(pieces.iter().all(Bytes::is_unique), "nobody else holds one of the pieces");
            assert!(upload.is_sent() && !upload.is_replayable());
        }
    }

    #[tokio::test]
    async fn the_share_of_work_lasts_as_long_as_the_work_though_the_request_has_gone() {
        let limits = limits(2_000_000, 2_000_000);
        let body = Ready([vec![b' '; 1_000_000].into()].into(), false);
        let mut upload = received(body, Reading::Carry, &limits).await;
        std::future::poll_fn(|context| upload.poll_hold(context, 3_000_000)).await.unwrap();
        let (body, room) = (upload.gather(), upload.take_room());
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let job = limits.rooms.blocking.run(move || {
            begun.send(()).unwrap();
            let _ = blocked.recv();
            drop(body);
            room
        });
        has_begun.await.unwrap();
        drop((job, upload));
        assert!(limits.rooms.memory.used() >= 4_000_000, "it still holds the body");
        release.send(()).unwrap();
        while limits.rooms.memory.used() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_share_that_comes_back_is_as_large_as_what_is_held() {
        let limits = limits(2_000_000, 2_000_000);
        let body = Ready([vec![b' '; 1_000_000].into()].into(), false);
        let mut upload = received(body, Reading::Carry, &limits).await;
        std::future::poll_fn(|context| upload.poll_hold(context, 9_000_000)).await.unwrap();
        let room = upload.take_room();
        upload.put_room(room);
        upload.settle(500_000);
        assert!((1_500_000..1_600_000).contains(&limits.rooms.memory.used()));
        drop(upload);
        assert_eq!(limits.rooms.memory.used(), 0);
    }

    fn target(served_name: &str) -> Target {
        use sans_io::table::Table;
        let model = test_support::model("m", served_name, vec![]);
        let route = test_support::route("r", vec![test_support::target("m", 1)]);
        let table = test_support::read(test_support::table(vec![model], vec![route]));
        let route = Arc::clone(Table::default().replaced_by(table).unwrap().0.route("r").unwrap());
        let target = Arc::clone(route.targets().next().unwrap());
        drop(route);
        Arc::into_inner(target).unwrap()
    }

    /// The bytes that an engine gets of a body in these pieces, when the attempt begins as soon as
    /// the model is known.
    fn sent(
        body: &[u8],
        (cuts, says_its_end): (&[usize], bool),
        target: &Target,
        limits: &BodyLimits,
    ) -> (Option<u64>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pieces = cuts
                .windows(2)
                .map(|pair| Bytes::copy_from_slice(&body[pair[0]..pair[1]]))
                .collect();
            let mut upload =
                Upload::new(Ready(pieces, says_its_end), Reading::Json, None, limits).unwrap();
            let receive = async |upload: &mut Upload<Ready>| {
                std::future::poll_fn(|context| upload.poll_receive(context)).await.unwrap();
            };
            while upload.model().is_none() {
                receive(&mut upload).await;
            }
            let changes = Changes { rename: Some(target), ask_usage: true, ..Changes::default() };
            let length = upload.start_attempt(changes);
            let (mut queue, mut sent) = (OutQueue::default(), Vec::new());
            loop {
                // Any framing but chunks leaves the body as it is.
                upload.send_into(&mut queue, Framing::Length(0));
                sent.extend(queue.take_all());
                if upload.is_sent() {
                    return (length, sent);
                }
                receive(&mut upload).await;
            }
        })
    }

    proptest! {
        #[test]
        fn a_renamed_body_that_asks_for_usage_is_right_whatever_its_pieces(
            members in proptest::sample::subsequence(
                vec![r#""stream":true"#, r#""n":  1e400"#,
                    r#""messages":[{"role":"user","content":"\u00e9 {\"stream_options\":1}"}]"#], 0..=3).prop_shuffle(),
            options in prop::option::of(prop::sample::select(
                vec![r#"{"include_usage":false,"x":[1.10]}"#, r#"{"include_usage":true}"#, "null"])),
            options_at in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            says_its_end in any::<bool>(),
            (replay, memory) in prop_oneof![Just((1_000, 1_000)), Just((5, 5)), Just((5, 40)), Just((0, 1_000))],
        ) {
            let mut members = members;
            members.insert(at.index(members.len() + 1), r#""model": "public""#);
            let own = options.map(|options| format!(r#""stream_options":{options}"#));
            if let Some(own) = &own {
                members.insert(options_at.index(members.len() + 1), own);
            }
            let body = format!("{{{}}} ", members.join(" ,\n"));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let limits = limits(replay, memory);
            let (length, sent) = sent(body.as_bytes(), (&cuts, says_its_end), &target("engine"), &limits);
            let streams = members.contains(&r#""stream":true"#);
            let mut expected = body.replace(r#""public""#, r#""engine""#);
            if streams && own.is_some() {
                expected = expected
                    .replace(r#""include_usage":false"#, r#""include_usage":true"#)
                    .replace("null", r#"{"include_usage":true}"#);
            } else if streams {
                let end = expected.rfind('}').unwrap();
                expected.insert_str(end, r#","stream_options":{"include_usage":true}"#);
            }
            prop_assert_eq!(String::from_utf8(sent).unwrap(), expected.clone());
            prop_assert!(length.is_none_or(|length| length == expected.len() as u64));
        }
    }
}
