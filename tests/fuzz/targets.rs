//! Fuzz targets of the wire and of deltas: each takes any bytes and may not panic, nor break what it asserts.
//!
//! Plain functions without a fuzzer: the programs of cargo-fuzz call them, and so does a test for a bounded number of inputs.

use std::sync::LazyLock;

use ringsync::apply::{FsTarget, Root, Target, prepare_process};
use ringsync::delta::code::{StepWriter, Steps, put_shape, take_shape};
use ringsync::delta::patch::check;
use ringsync::delta::{Differ, Shape, Signer, Step};
use ringsync::limits::{CYCLES_IN_FLIGHT_MAX, DELTA_LITERAL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, SHAPES_BYTES_MAX, STAGE_CHUNK_BYTES};
use ringsync::model::meta::{Kind, Meta, Time};
use ringsync::model::op::{Op, OpError, Spot};
use ringsync::model::path::{Name, RelPath};
use ringsync::wire::frame::{Deframer, FLAG_LZ4, FRAME_MAGIC, Framer};
use ringsync::wire::session::{ContentClient, ContentServer, ControlClient, ControlServer, greet, welcomed};
use ringsync::wire::{Message, Messages, Payload, WireError};

use super::document;

/// An input as a source of choices. When it is used up, every choice is 0.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = if end > 256 { self.number() as usize } else { usize::from(self.byte()) };
        wide % end
    }

    /// A number of any size, mostly small.
    pub fn number(&mut self) -> u64 {
        let len = usize::from(self.byte() % 9);
        (0..len).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// At most `max` bytes, as many as the next one says.
    pub fn some(&mut self, max: usize) -> &'a [u8] {
        let len = self.below(max + 1).min(self.0.len());
        self.0.split_off(..len).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All that a deframer makes of a stream in pieces, and how that ended.
fn deframe(stream: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Vec<u8>>, Option<WireError>) {
    let mut deframer = Deframer::new();
    let (mut got, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let len = piece().clamp(1, rest.len());
        let mut bytes = rest.split_off(..len).unwrap_or_default();
        loop {
            match deframer.feed(&mut bytes) {
                Ok(Some(payload)) => {
                    assert!((1..=FRAME_PAYLOAD_BYTES_MAX).contains(&payload.len()));
                    got.push(payload);
                }
                Ok(None) => break,
                Err(e) => return (got, Some(e)),
            }
        }
        assert!(bytes.is_empty(), "without an error all is taken");
    }
    (got, None)
}

/// A frame with a right checksum around any body.
fn frame_around(lz4: bool, raw: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = [&FRAME_MAGIC[..], &[if lz4 { FLAG_LZ4 } else { 0 }]].concat();
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&raw.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame);
    crc.update(body);
    frame.extend_from_slice(&crc.finalize().to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Any bytes in any pieces, frames with a right checksum around any body, and payloads there and back.
pub fn frame(data: &[u8]) {
    let mut input = Bytes(data);
    let kind = input.byte();
    let pace = usize::from(input.byte());
    let stream = match kind % 3 {
        0 => input.0.to_vec(),
        1 => {
            let mut stream = Vec::new();
            while !input.is_empty() {
                let (lz4, raw) = (input.byte() & 1 == 1, input.number() as u32);
                let body = input.some(2000);
                let raw = if lz4 { raw % (1 << 21) } else { body.len() as u32 };
                stream.extend(frame_around(lz4, raw, body));
            }
            stream
        }
        _ => {
            let mut framer = Framer::new(true);
            let (mut stream, mut sent) = (Vec::new(), Vec::new());
            while !input.is_empty() {
                let times = 1 + input.below(40);
                let payload = input.some(300).repeat(times);
                if payload.is_empty() {
                    continue;
                }
                sent.push(payload.clone());
                let packet = framer.frame(payload);
                stream.extend_from_slice(&packet.head);
                stream.extend_from_slice(&packet.body);
            }
            assert_eq!(deframe(&stream, || pace), (sent, None));
            return;
        }
    };
    // However a stream is cut, what is in it is the same; a stranger may be found sooner by smaller pieces.
    let whole = deframe(&stream, || usize::MAX);
    let mut next = pace;
    let cut = deframe(&stream, || {
        next = (next * 7 + 3) % 61;
        next
    });
    assert_eq!(whole, cut);
}

/// A payload: what is decoded, encoded again and decoded again is equal, and what is encoded has one form.
pub fn message(data: &[u8]) {
    let data = &data[..data.len().min(FRAME_PAYLOAD_BYTES_MAX)];
    // An operation of another list in a File is the checkers' to refuse; nobody sends one.
    let mut rules = ContentServer::new();
    rules.check(&Message::FilesOf { cycle: 1 }).expect("the first");
    // Attributes that are the last ones already are not said again.
    let mut last = 0;
    let mut stands = |message: &Message<'_>| match message {
        Message::File { .. } => rules.check(message).is_ok(),
        Message::Attrs(attrs) => std::mem::replace(&mut last, attrs.digest()) != attrs.digest(),
        _ => true,
    };
    let decoded: Vec<Message<'_>> = Messages::new(data).map_while(Result::ok).filter(|message| stands(message)).collect();
    let mut payload = Payload::new();
    decoded.iter().for_each(|message| payload.message(message));
    let bytes = payload.take();
    let again: Vec<Message<'_>> = Messages::new(&bytes).collect::<Result<_, _>>().expect("what was encoded can be decoded");
    assert_eq!(decoded.len(), again.len());
    decoded.iter().zip(&again).for_each(|(decoded, again)| assert_eq!(decoded, again));
    let mut once_more = Payload::new();
    again.iter().for_each(|message| once_more.message(message));
    assert_eq!(once_more.take(), bytes);
    for message in decoded {
        // For people: neither panics, nor breaks a line.
        assert!(!format!("{message:?}").contains('\n'));
        if let Message::Put { meta, data, .. } = &message {
            assert_eq!(meta.size, data.len() as u64);
        }
        let _ = welcomed(&message);
        let _ = greet(message);
    }
}

/// The payloads of the document.
static PAYLOADS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| document::blocks("payload").into_values().map(|block| block.bytes).collect());

/// The checkers of both ends, fed with messages of the document in any order, with any numbers.
pub fn session(data: &[u8]) {
    let mut input = Bytes(data);
    let (mut control, mut content) = (ControlServer::new(), ContentServer::new());
    let (mut client, mut reader) = (ControlClient::new(), ContentClient::new());
    let mut sent = input.number();
    let mut pings = 0u32;
    while !input.is_empty() {
        match input.below(8) {
            0 if client.in_flight() < CYCLES_IN_FLIGHT_MAX => {
                sent = sent.wrapping_add(1);
                // A client's own numbers do not overflow.
                if sent == 0 {
                    return;
                }
                client.sent_begin(sent);
                assert!(client.oldest().is_some_and(|oldest| oldest <= sent));
                continue;
            }
            1 => client.sent_list(),
            2 => {
                reader.sent_ping();
                pings += 1;
            }
            3 => reader.sent_seal(),
            _ => {}
        }
        let from = &PAYLOADS[input.below(PAYLOADS.len())];
        for message in Messages::new(from) {
            let mut message = message.expect("the document's");
            let number = input.number();
            match &mut message {
                Message::Begin { cycle } | Message::FilesOf { cycle } => *cycle = control.cycle().unwrap_or(number).wrapping_add(number),
                Message::Ack { cycle } => *cycle = client.oldest().unwrap_or(0).wrapping_add(number),
                Message::Failed(OpError { index, .. }) => *index = number as u32,
                Message::Close { files } => *files = number as u32,
                _ => {}
            }
            let (oldest, begun, ended) = (client.oldest(), control.cycle(), (control.has_ended(), content.has_ended()));
            let passed = (control.check(&message).is_ok(), content.check(&message).is_ok());
            assert!(!(ended.0 && passed.0 || ended.1 && passed.1), "nothing follows a Bye");
            if let Message::Begin { cycle } = &message
                && passed.0
            {
                assert!(begun.is_none_or(|begun| begun.checked_add(1) == Some(*cycle)));
            } else {
                assert_eq!(begun, control.cycle());
            }
            let _ = client.check(&message);
            if reader.check(&message).is_ok() && matches!(message, Message::Pong) {
                pings = pings.checked_sub(1).expect("a Pong for each Ping at the most");
            }
            match message {
                Message::Ack { cycle } if client.oldest() != oldest => assert_eq!(oldest, Some(cycle)),
                _ => assert_eq!(oldest, client.oldest(), "only an Ack ends a cycle"),
            }
            assert!(client.in_flight() <= CYCLES_IN_FLIGHT_MAX);
            let _ = welcomed(&message);
            let _ = greet(message);
        }
    }
}

/// The longest content that a target makes or reads back.
const CONTENT_BYTES_MAX: usize = 96 * 1024;

/// A mirror to patch files in.
struct Bench {
    root: tempfile::TempDir,
    target: FsTarget,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        prepare_process();
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory");
        let target = FsTarget::new(Root::open(root.path(), false).expect("a root"));
        Self { root, target, next: 0 }
    }

    /// Applies batches of steps, as a receiver does, to a file with the content `base`. The result, if it has the digest.
    fn patch(&mut self, base: &[u8], shapes: &[u8], batches: &[&[u8]], digest: [u8; 32], len: u64) -> Option<Vec<u8>> {
        self.next += 1;
        std::fs::write(self.root.path().join("base"), base).expect("write the base");
        let spot = |name: &[u8]| Spot { dir: RelPath::root(), name: Name::new(name).expect("a name").to_owned() };
        self.target.patch(self.next, &spot(b"base"), shapes);
        batches.iter().for_each(|batch| self.target.steps(self.next, batch));
        let mut ended = None;
        if len <= CONTENT_BYTES_MAX as u64 {
            ended = self.target.seal(self.next, digest).map(Err);
            // At most two slices: what is copied, what is read back.
            for _ in 0..4 {
                if ended.is_none() && self.target.has_work() {
                    ended = self.target.work().map(|(_, ended)| ended);
                }
            }
            assert!(ended.is_some() && !self.target.has_work(), "a patch comes to its end");
        }
        let made = ended.and_then(Result::ok).map(|()| {
            let meta = Meta { kind: Kind::File, mode: 0o600, uid: 0, gid: 0, mtime: Time::default(), size: len, rdev: 0, attrs: 0 };
            let (uid, gid) = owner(self.root.path());
            let place = Op::Place { at: spot(b"made"), meta: Meta { uid, gid, ..meta }, stage: self.next };
            assert_eq!(self.target.op(&place), Ok(()), "what is sealed can be placed");
            std::fs::read(self.root.path().join("made")).expect("read what was placed")
        });
        self.target.drop_stage(self.next);
        self.target.end_frame();
        made
    }
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().expect("the root");
    (meta.uid(), meta.gid())
}

thread_local! {
    static BENCH: std::cell::RefCell<Bench> = std::cell::RefCell::new(Bench::new());
}

/// Content from few bytes: stretches of noise, of one byte, and of what came before.
fn content(input: &mut Bytes<'_>) -> Vec<u8> {
    let mut made: Vec<u8> = Vec::new();
    for _ in 0..input.below(6) {
        let len = input.below(20_000);
        match input.below(4) {
            0 => made.extend(std::iter::repeat_n(input.byte(), len)),
            1 => made.extend_from_slice(input.some(200)),
            2 if !made.is_empty() => {
                let from = input.below(made.len());
                let again = made[from..(from + len).min(made.len())].to_vec();
                made.extend(again);
            }
            _ => {
                let mut state = u64::from(input.byte()) | 1;
                made.extend((0..len).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                }));
            }
        }
        made.truncate(CONTENT_BYTES_MAX / 2);
    }
    made
}

/// What an editor, a database or an attacker may make of content.
fn edited(input: &mut Bytes<'_>, base: &[u8]) -> Vec<u8> {
    let mut new = base.to_vec();
    for _ in 0..input.below(8) {
        let at = input.below(new.len() + 1);
        let end = (at + input.below(9000)).min(new.len());
        match input.below(5) {
            0 => drop(new.splice(at..at, input.some(100).to_vec())),
            1 => drop(new.drain(at..end)),
            2 => new[at..end].iter_mut().for_each(|byte| *byte ^= 0x55),
            3 => new.rotate_left(at),
            _ => {
                let part = new[at..end].to_vec();
                let to = input.below(new.len() + 1);
                new.splice(to..to, part);
            }
        }
        new.truncate(CONTENT_BYTES_MAX);
    }
    new
}

/// The delta of `new`, in batches as a worker makes them, is applied to `base` and gives `new`.
fn there_and_back(base: &[u8], new: &[u8]) {
    let base_shape = Shape::of(base.len() as u64).expect("small");
    let mut signer = Signer::new(base_shape);
    signer.update(base).expect("as long as it is");
    let signature = signer.finish().expect("complete");
    let differ = Differ::new(&signature, new.len() as u64).expect("small");
    let mut shapes = Vec::new();
    put_shape(&mut shapes, base_shape);
    put_shape(&mut shapes, differ.shape());
    assert!(shapes.len() <= SHAPES_BYTES_MAX);
    let mut batches: Vec<Vec<u8>> = Vec::new();
    let mut writer: Option<StepWriter> = None;
    let mut count = 0;
    let read = |at: u64, out: &mut [u8]| {
        out.copy_from_slice(&new[at as usize..][..out.len()]);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(outcome) = differ.run(read, |step| {
        writer.get_or_insert_with(|| StepWriter::new(Vec::new(), step.at())).push(&step);
        count += 1;
        if count % 3 == 0 {
            batches.extend(writer.take().map(StepWriter::finish));
        }
        Ok(())
    });
    batches.extend(writer.map(StepWriter::finish));
    assert!(batches.iter().all(|batch| batch.len() <= STAGE_CHUNK_BYTES));
    let batches: Vec<&[u8]> = batches.iter().map(Vec::as_slice).collect();
    let digest = outcome.signature.digest().0;
    let made = BENCH.with_borrow_mut(|bench| bench.patch(base, &shapes, &batches, digest, new.len() as u64));
    assert!(made.as_deref() == Some(new), "the result is another than what was meant");
}

/// What any steps make of a base by the rules alone; `None` if one breaks them or they are not complete.
fn by_the_rules(base: &[u8], shapes: &[u8], steps: &[u8]) -> Option<(Vec<u8>, Shape)> {
    let mut rest = shapes;
    let (base_shape, shape) = (take_shape(&mut rest).ok()?, take_shape(&mut rest).ok()?);
    if !rest.is_empty() || base_shape.len() != base.len() as u64 {
        return None;
    }
    if shape.len() > CONTENT_BYTES_MAX as u64 {
        return None;
    }
    let mut made = Vec::new();
    for step in Steps::new(steps).ok()? {
        let step = step.ok()?;
        check(&step, base_shape, shape, made.len() as u64).ok()?;
        match step {
            Step::Literal { bytes, .. } => {
                assert!(bytes.len() <= DELTA_LITERAL_BYTES_MAX);
                made.extend_from_slice(bytes);
            }
            Step::Hole { len, .. } => made.resize(made.len() + len as usize, 0),
            Step::Copy { from, len, .. } => {
                made.extend_from_slice(base.get(from as usize..(from + len) as usize).expect("what passed is within the base"));
            }
        }
    }
    (made.len() as u64 == shape.len()).then_some((made, shape))
}

/// Any steps on any base by the receiver's code, and deltas there and back.
pub fn delta(data: &[u8]) {
    let mut input = Bytes(data);
    let base = if input.byte() & 1 == 0 {
        let base = content(&mut input);
        let new = if input.byte() & 1 == 0 { edited(&mut input, &base) } else { content(&mut input) };
        return there_and_back(&base, &new);
    } else {
        content(&mut input)
    };
    let mut shapes = Vec::new();
    match input.below(4) {
        0 => shapes.extend_from_slice(input.some(SHAPES_BYTES_MAX)),
        _ => {
            put_shape(&mut shapes, Shape::of(base.len() as u64).expect("small"));
            let len = if input.byte() & 1 == 0 { input.number() } else { input.below(CONTENT_BYTES_MAX) as u64 };
            if let Some(shape) = Shape::of(len) {
                put_shape(&mut shapes, shape);
            }
        }
    }
    let steps = input.0;
    let expected = by_the_rules(&base, &shapes, steps);
    let mut rest = &shapes[..];
    let len = take_shape(&mut rest).and_then(|_| take_shape(&mut rest)).map_or(0, |shape| shape.len());
    let digest = expected.as_ref().filter(|_| len <= CONTENT_BYTES_MAX as u64).map_or([0; 32], |(made, shape)| {
        let mut signer = Signer::new(*shape);
        signer.update(made).expect("as long as it is");
        signer.finish().expect("complete").digest().0
    });
    let made = BENCH.with_borrow_mut(|bench| bench.patch(&base, &shapes, &[steps], digest, len));
    if len <= CONTENT_BYTES_MAX as u64 {
        assert!(made == expected.map(|(made, _)| made), "the receiver and the rules agree");
    }
}
