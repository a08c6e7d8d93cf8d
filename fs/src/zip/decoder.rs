//! A member's content from some place on, checked at its end: length, CRC-32, and the authentication code of AES.

use super::crypt::Input;
use super::inflate::{Inflate, Resume};
use super::member::Member;
use super::windows::Windows;
use bzip2::bufread::BzDecoder;
use crc32fast::Hasher;
use deflate64::Deflate64Decoder;
use std::io::{self, BufReader, Read};

/// Compressed bytes read at once.
const INPUT_BYTES: usize = 64 * 1024;
/// Zstandard frames may ask for this much memory, as a power of two: 128 MiB, what `zstd` itself accepts.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Compression methods as APPNOTE 4.4.5 numbers them.
pub(crate) mod method {
    pub(crate) const STORED: u16 = 0;
    pub(crate) const DEFLATE: u16 = 8;
    pub(crate) const DEFLATE64: u16 = 9;
    pub(crate) const BZIP2: u16 = 12;
    /// Zstandard before it had a number of its own.
    pub(crate) const ZSTD_OLD: u16 = 20;
    pub(crate) const ZSTD: u16 = 93;
    /// Not a method: an extra field tells the real one.
    pub(crate) const AES: u16 = 99;
}

/// Whether content of this method can be read.
pub(crate) fn is_known(number: u16) -> bool {
    use method::{BZIP2, DEFLATE, DEFLATE64, STORED, ZSTD, ZSTD_OLD};
    matches!(number, STORED | DEFLATE | DEFLATE64 | BZIP2 | ZSTD_OLD | ZSTD)
}

type Packed = BufReader<Input>;

enum Body {
    Stored(Input),
    Deflate(Box<Inflate>),
    Deflate64(Box<Deflate64Decoder<Packed>>),
    Bzip2(Box<BzDecoder<Packed>>),
    Zstd(Box<zstd::Decoder<'static, Packed>>),
}

/// Content being read in order.
pub(crate) struct Decoder {
    body: Body,
    /// Bytes of content handed out.
    pub(crate) at: u64,
    crc: Hasher,
}

/// A place in a member at which a decoder can begin.
pub(crate) struct Place {
    /// Bytes of content before it.
    pub(crate) at: u64,
    /// Of what comes before; none when only the index of the archive knows the place.
    crc: Option<Hasher>,
    resume: Resume,
}

impl Place {
    /// A place that the archive itself names: from there on nothing refers back.
    pub(crate) fn named(at: u64, input: Input) -> Self {
        Self { at, crc: None, resume: Resume::fresh(input) }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Decoder {
    /// From the beginning.
    ///
    /// # Errors
    /// `Unsupported` for an unknown method; what reading answers.
    pub(crate) fn start(member: &Member, input: Input) -> io::Result<Self> {
        let packed = |input| BufReader::with_capacity(INPUT_BYTES, input);
        let body = match member.method {
            method::STORED => Body::Stored(input),
            method::DEFLATE => Body::Deflate(Box::new(Inflate::new(input))),
            method::DEFLATE64 => Body::Deflate64(Box::new(Deflate64Decoder::with_buffer(packed(input)))),
            method::BZIP2 => Body::Bzip2(Box::new(BzDecoder::new(packed(input)))),
            method::ZSTD | method::ZSTD_OLD => {
                let mut decoder = zstd::Decoder::with_buffer(packed(input))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Body::Zstd(Box::new(decoder))
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self { body, at: 0, crc: Hasher::new() })
    }

    /// From a place noted before.
    ///
    /// # Errors
    /// What reading answers.
    pub(crate) fn resume(place: &Place) -> io::Result<(Self, bool)> {
        let body = Body::Deflate(Box::new(Inflate::resume(&place.resume)?));
        let crc = place.crc.clone();
        let whole = crc.is_some();
        Ok((Self { body, at: place.at, crc: crc.unwrap_or_default() }, whole))
    }

    /// Whether it holds up to 128 MiB, as frames of Zstandard may ask for.
    pub(crate) fn is_large(&self) -> bool {
        matches!(self.body, Body::Zstd(_))
    }

    /// Whether the present place can be noted, cheaply or at all.
    pub(crate) fn can_note(&self, cheaply: bool) -> bool {
        match &self.body {
            Body::Deflate(inflate) if cheaply => inflate.is_between(),
            Body::Deflate(inflate) => inflate.is_caught_up(),
            _ => false,
        }
    }

    /// Note the present place.
    pub(crate) fn note(&self, windows: &Windows) -> Option<Place> {
        let Body::Deflate(inflate) = &self.body else { return None };
        let resume = inflate.place(self.at, windows)?;
        Some(Place { at: self.at, crc: Some(self.crc.clone()), resume })
    }

    /// Some content, at most as much as fits. `stop` asks for places that can be noted.
    ///
    /// # Errors
    /// The content is damaged, or shorter than the archive says.
    pub(crate) fn read(&mut self, out: &mut [u8], stop: bool) -> io::Result<usize> {
        let read = match &mut self.body {
            Body::Stored(input) => input.read(out),
            Body::Deflate(inflate) => inflate.read(out, stop),
            Body::Deflate64(decoder) => decoder.read(out),
            Body::Bzip2(decoder) => decoder.read(out),
            Body::Zstd(decoder) => decoder.read(out),
        }?;
        if read == 0 && !out.is_empty() {
            return Err(invalid("its content is shorter than the archive says"));
        }
        self.crc.update(&out[..read]);
        self.at += read as u64;
        Ok(read)
    }

    /// After the last byte: nothing may follow, and everything read must be what was packed. `whole` says that the CRC
    /// covers the content from the beginning.
    ///
    /// # Errors
    /// The content is not what the archive says.
    pub(crate) fn finish(mut self, member: &Member, whole: bool) -> io::Result<()> {
        let mut more = [0];
        let follows = match &mut self.body {
            Body::Stored(input) => input.read(&mut more),
            Body::Deflate(inflate) => inflate.read(&mut more, false),
            Body::Deflate64(decoder) => decoder.read(&mut more),
            Body::Bzip2(decoder) => decoder.read(&mut more),
            Body::Zstd(decoder) => decoder.read(&mut more),
        }?;
        if follows > 0 {
            return Err(invalid("its content is longer than the archive says"));
        }
        match &mut self.body {
            Body::Stored(_) => {}
            Body::Deflate(inflate) => inflate.drain()?,
            Body::Deflate64(decoder) => io::copy(decoder.get_mut(), &mut io::sink()).map(drop)?,
            Body::Bzip2(decoder) => io::copy(decoder.get_mut(), &mut io::sink()).map(drop)?,
            Body::Zstd(decoder) => io::copy(decoder.get_mut(), &mut io::sink()).map(drop)?,
        }
        if whole && member.crc.is_some_and(|crc| crc != self.crc.finalize()) {
            return Err(invalid("its checksum does not fit"));
        }
        Ok(())
    }
}
