//! What a parser of bytes from anybody must bear: noise, damaged messages, lengths that lie, more of
//! everything than anybody sends, and fields of later versions.
//!
//! Not part of the protocol: the tests of each parser call it, with valid messages as examples. All of
//! it follows from seeds, and a failure says which.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use fastrand::Rng;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// No parse may take longer, on however busy a machine: what is linear takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The key of a field that no message has.
const LATER: u8 = 200;

/// Bytes of any kind, at most `most`; as often a few as many.
fn noise(rng: &mut Rng, most: usize) -> Vec<u8> {
    let bits = rng.u32(0..=most.max(1).ilog2());
    let mut bytes = vec![0; rng.usize(0..=most.min(2 << bits))];
    rng.fill(&mut bytes);
    bytes
}

/// A valid message that was cut, or of which bytes were altered, lost, repeated or put in.
fn damaged(rng: &mut Rng, example: &[u8]) -> Vec<u8> {
    let mut bytes = example.to_vec();
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(0..=bytes.len());
        let end = (at + rng.usize(0..=16)).min(bytes.len());
        match rng.u8(0..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes.insert(at, rng.u8(..)),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| match rng.bool() {
                true => *byte = rng.u8(..),
                false => *byte ^= 1 << rng.u8(0..8),
            }),
        }
    }
    bytes
}

/// From each of so many seeds: noise of at most `most` bytes, and every example, damaged.
pub fn hostile(examples: &[Vec<u8>], most: usize, seeds: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..seeds).flat_map(move |seed| {
        let mut rng = Rng::with_seed(seed);
        let first = noise(&mut rng, most);
        let rest = examples.iter().map(move |example| damaged(&mut rng, example));
        std::iter::once(first).chain(rest).map(move |bytes| (seed, bytes))
    })
}

/// Says which input it was if a parser panics.
struct Blame<'a>(&'a str, u64, &'a [u8]);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(what, seed, bytes) = self;
            eprintln!("{what} {seed}, {} bytes: {:02x?}", bytes.len(), &bytes[..bytes.len().min(512)]);
        }
    }
}

fn timed<T>(what: &str, seed: u64, bytes: &[u8], parse: impl FnOnce(&[u8]) -> T) -> T {
    let _blame = Blame(what, seed, bytes);
    let begun = Instant::now();
    let parsed = parse(bytes);
    assert!(begun.elapsed() < PATIENCE, "it took {:?}", begun.elapsed());
    parsed
}

/// Gives a parser what [`hostile`] makes, and asks for no more than that it comes back soon.
pub fn bears_anything<T>(examples: &[Vec<u8>], most: usize, seeds: u64, mut parse: impl FnMut(&[u8]) -> T) {
    for (seed, bytes) in hostile(examples, most, seeds) {
        timed("seed", seed, &bytes, &mut parse);
    }
}

/// The head of something in CBOR that says how much follows.
struct Head {
    of: Type,
    at: usize,
    /// Where what follows begins.
    content: usize,
    count: u64,
}

impl Head {
    /// The message with another count in this head, always in its longest form, and `more` behind it.
    fn replaced(&self, bytes: &[u8], count: u64, more: &[u8]) -> Vec<u8> {
        let kind = match self.of {
            Type::Bytes => 0x5b,
            Type::String => 0x7b,
            Type::Array => 0x9b,
            _ => 0xbb,
        };
        [&bytes[..self.at], &[kind], &count.to_be_bytes(), more, &bytes[self.content..]].concat()
    }
}

/// Every head of an example, which has none of indefinite length.
fn heads(bytes: &[u8]) -> Vec<Head> {
    let mut heads = Vec::new();
    let mut decoder = Decoder::new(bytes);
    while decoder.position() < bytes.len() {
        let at = decoder.position();
        let of = decoder.datatype().expect("an example is CBOR");
        let count = match of {
            Type::Array => decoder.array().ok().flatten(),
            Type::Map => decoder.map().ok().flatten(),
            Type::Bytes => decoder.bytes().ok().map(|bytes| bytes.len() as u64),
            Type::String => decoder.str().ok().map(|text| text.len() as u64),
            _ => {
                decoder.skip().expect("an example is CBOR");
                continue;
            }
        };
        let count = count.expect("an example has definite lengths");
        let inside = if matches!(of, Type::Bytes | Type::String) { count as usize } else { 0 };
        heads.push(Head { of, at, content: decoder.position() - inside, count });
    }
    heads
}

/// Raises every length in every example far above what follows. A parser that reserves by a declared
/// length panics or is ended by the allocator at the greatest; every other one finds that bytes are
/// missing.
pub fn trusts_no_length<T: Debug>(examples: &[Vec<u8>], parse: impl Fn(&[u8]) -> Option<T>) {
    for (number, example) in examples.iter().enumerate() {
        for head in heads(example) {
            for declared in [u64::MAX, 1 << 63, i64::MAX as u64, 1 << 48, u64::from(u32::MAX), 1 << 24] {
                let bytes = head.replaced(example, declared, &[]);
                let parsed = timed("example", number as u64, &bytes, &parse);
                assert!(parsed.is_none(), "{declared} at {} of example {number}: {parsed:?}", head.at);
            }
        }
    }
}

/// Repeats the first of every array and map in every example until it is `most` bytes long, and has a
/// later version's field nest as deeply.
pub fn is_quick_with_much<T>(examples: &[Vec<u8>], most: usize, parse: impl Fn(&[u8]) -> Option<T>) {
    for (number, example) in examples.iter().enumerate() {
        let room = most.saturating_sub(example.len() + 16);
        for head in heads(example).iter().filter(|head| head.count > 0) {
            let items = match head.of {
                Type::Array => 1,
                Type::Map => 2,
                _ => continue,
            };
            let mut decoder = Decoder::new(example);
            decoder.set_position(head.content);
            (0..items).for_each(|_| decoder.skip().expect("an example is CBOR"));
            let first = &example[head.content..decoder.position()];
            let times = room / first.len();
            let bytes = head.replaced(example, head.count + times as u64, &first.repeat(times));
            timed("example", number as u64, &bytes, &parse);
        }
        for nest in [0x81, 0x9f, 0xbf, 0xa1, 0xc1] {
            if let Some(head) = heads(example).iter().find(|head| head.of == Type::Map) {
                let later = [vec![0x18, LATER], vec![nest; room]].concat();
                let bytes = head.replaced(example, head.count + 1, &later);
                timed("example", number as u64, &bytes, &parse);
            }
        }
    }
}

/// Adds a field of a later version to every struct of every example, before the fields that are known:
/// nothing else may change.
///
/// A map is a struct's where it begins with field 0; the keys of all others are ids, or count from 1.
///
/// # Panics
/// If there is no such struct in any of them: then this would say nothing.
pub fn ignores_later_fields<T: Debug + PartialEq>(examples: &[Vec<u8>], parse: impl Fn(&[u8]) -> Option<T>) {
    let mut structs = 0;
    let mut later = Encoder::new(Vec::new());
    later
        .u8(LATER)
        .and_then(|e| e.array(3)?.str("later")?.map(1)?.u8(0)?.bytes(&[1, 2])?.null())
        .expect("memory");
    let later = later.into_writer();
    for (number, example) in examples.iter().enumerate() {
        let known = parse(example);
        assert!(known.is_some(), "example {number} is none");
        let is_struct = |head: &&Head| head.of == Type::Map && head.count > 0 && example[head.content] == 0;
        for head in heads(example).iter().filter(is_struct) {
            structs += 1;
            let bytes = head.replaced(example, head.count + 1, &later);
            assert_eq!(parse(&bytes), known, "at {} of example {number}", head.at);
        }
    }
    assert!(structs > 0, "no example has a struct");
}

/// All of the above for the two parsers of a protocol, each of which is also given what is meant for the
/// other. `most` is the longest message.
pub fn harms_neither<A, B>(
    (requests, request): (&[Vec<u8>], impl Fn(&[u8]) -> Option<A>),
    (responses, response): (&[Vec<u8>], impl Fn(&[u8]) -> Option<B>),
    most: usize,
) where
    A: Debug + PartialEq,
    B: Debug + PartialEq,
{
    let both = [requests, responses].concat();
    bears_anything(&both, most + 1, 1_000, |bytes| (request(bytes), response(bytes)));
    is_quick_with_much(requests, most, &request);
    is_quick_with_much(responses, most, &response);
    trusts_no_length(requests, &request);
    trusts_no_length(responses, &response);
    ignores_later_fields(requests, &request);
    ignores_later_fields(responses, &response);
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    /// {0: [7, 8], 1: "x"}
    fn example() -> Vec<Vec<u8>> {
        vec![vec![0xa2, 0, 0x82, 7, 8, 1, 0x61, b'x']]
    }

    fn careful(bytes: &[u8]) -> Option<(Vec<u8>, String)> {
        let mut decoder = Decoder::new(bytes);
        let (mut numbers, mut text) = (None, None);
        for _ in 0..decoder.map().ok()?? {
            match decoder.u8().ok()? {
                0 => numbers = decoder.array_iter().ok()?.collect::<Result<_, _>>().ok(),
                1 => text = decoder.str().ok().map(str::to_owned),
                _ => decoder.skip().ok()?,
            }
        }
        Some((numbers?, text?))
    }

    #[test]
    fn a_careful_parser_bears_it_all() {
        assert!(careful(&example()[0]).is_some());
        bears_anything(&example(), 1 << 16, 500, careful);
        trusts_no_length(&example(), careful);
        is_quick_with_much(&example(), 1 << 16, careful);
        ignores_later_fields(&example(), careful);
        harms_neither((&example(), careful), (&example(), careful), 1 << 16);
    }

    #[test]
    fn careless_parsers_are_found() {
        let reserves = |bytes: &[u8]| {
            let mut decoder = Decoder::new(bytes);
            decoder.map().ok()??;
            decoder.u8().ok()?;
            let count = decoder.array().ok()??;
            drop(Vec::<u64>::with_capacity(count as usize));
            careful(bytes)
        };
        assert!(catch_unwind(|| trusts_no_length(&example(), reserves)).is_err());
        let strict = |bytes: &[u8]| careful(bytes).filter(|_| !bytes.contains(&LATER));
        assert!(catch_unwind(|| ignores_later_fields(&example(), strict)).is_err());
        for (one, other) in [(strict as fn(&[u8]) -> _, careful as fn(&[u8]) -> _), (careful, strict)] {
            let both = || harms_neither((&example(), one), (&example(), other), 1 << 10);
            assert!(catch_unwind(both).is_err());
        }
        let panics = |bytes: &[u8]| assert!(bytes.len() < 1000);
        assert!(catch_unwind(|| bears_anything(&example(), 1 << 16, 500, panics)).is_err());
        let brittle = |bytes: &[u8]| assert!(bytes.first() != Some(&0xa2) || bytes.get(1) == Some(&0));
        assert!(catch_unwind(|| bears_anything(&example(), 4, 500, brittle)).is_err());
    }
}
