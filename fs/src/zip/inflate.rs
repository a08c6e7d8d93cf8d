//! Deflate that can be taken up again in the middle: between two blocks the state of the decoder is a few bits and the last
//! 32 KiB of content.

use super::crypt::Input;
use super::windows::{REACH_BYTES, Window, Windows};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};
use std::io::{self, Read};
use std::ops::Range;

/// Compressed bytes read at once.
const INPUT_BYTES: usize = 64 * 1024;
/// Compressed bytes inflated at once: not many, because who reads at random waits for all of their content.
const STEP_BYTES: usize = 8 * 1024;
/// Content kept for references backwards; a power of two, and more than the 32 KiB that references reach.
const WINDOW_BYTES: usize = 256 * 1024;

/// The decoder's state at a place where it can be taken up.
#[derive(Clone)]
enum State {
    /// Between two blocks.
    Between(BlockBoundaryState),
    /// Within a block that does not end.
    Within(Box<DecompressorOxide>),
}

/// A place in a member at which inflating can begin.
pub(crate) struct Resume {
    input: Input,
    /// Bytes of the input from there that belong to what came before.
    skip: usize,
    state: State,
    /// The content before; none where nothing refers back.
    window: Option<Window>,
}

impl Resume {
    /// The beginning of a piece that refers to nothing before it.
    pub(crate) fn fresh(input: Input) -> Self {
        Self { input, skip: 0, state: State::Between(BlockBoundaryState::default()), window: None }
    }
}

/// A deflate stream being read.
pub(crate) struct Inflate {
    input: Input,
    /// The reader as it was before the buffer was filled.
    before: Option<Input>,
    buffer: Vec<u8>,
    unread: Range<usize>,
    decoder: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// Content not handed out yet, in the window.
    ready: Range<usize>,
    /// The decoder stands between two blocks, at the end of `ready`.
    between: bool,
    done: bool,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Inflate {
    pub(crate) fn new(input: Input) -> Self {
        Self {
            input,
            before: None,
            buffer: Vec::new(),
            unread: 0..0,
            decoder: Box::default(),
            window: vec![0; WINDOW_BYTES].into_boxed_slice(),
            ready: 0..0,
            between: false,
            done: false,
        }
    }

    /// Go on where `place` was noted.
    ///
    /// # Errors
    /// What reading the archive answers.
    pub(crate) fn resume(place: &Resume) -> io::Result<Self> {
        let input = place.input.fork().ok_or_else(|| invalid("it cannot be read from the middle"))?;
        let mut inflate = Self::new(input);
        inflate.fill()?;
        if inflate.unread.len() < place.skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inflate.unread.start += place.skip;
        inflate.decoder = match &place.state {
            State::Between(state) => Box::new(DecompressorOxide::from_block_boundary_state(state)),
            State::Within(decoder) => decoder.clone(),
        };
        if let Some(window) = &place.window {
            let length = window.read(&mut inflate.window[..REACH_BYTES])?;
            inflate.ready = length..length;
        }
        Ok(inflate)
    }

    /// Whether the place just after what was handed out can be noted cheaply.
    pub(crate) fn is_between(&self) -> bool {
        self.between && self.ready.is_empty()
    }

    /// Whether it can be noted at all.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.ready.is_empty() && !self.done
    }

    /// Note this place, `at` bytes into the content, whose window goes to `windows`. `None` where a member cannot be read from
    /// the middle.
    pub(crate) fn place(&self, at: u64, windows: &Windows) -> Option<Resume> {
        let input = self.before.as_ref()?.fork()?;
        let state = match self.decoder.block_boundary_state().filter(|_| self.between) {
            Some(state) => State::Between(state),
            None => State::Within(self.decoder.clone()),
        };
        let reach = usize::try_from(at).unwrap_or(usize::MAX).min(REACH_BYTES);
        let end = self.ready.end;
        let mut window = Vec::with_capacity(reach);
        if end < reach {
            window.extend_from_slice(&self.window[WINDOW_BYTES - (reach - end)..]);
        }
        window.extend_from_slice(&self.window[end.saturating_sub(reach)..end]);
        let state_bytes = match &state {
            State::Between(_) => 0,
            State::Within(_) => size_of::<DecompressorOxide>(),
        };
        let window = windows.keep(&window, size_of::<Resume>() + state_bytes).ok()?;
        Some(Resume { input, skip: self.unread.start, state, window: Some(window) })
    }

    fn fill(&mut self) -> io::Result<()> {
        self.before = self.input.fork();
        self.buffer.resize(INPUT_BYTES, 0);
        let mut filled = 0;
        while filled < INPUT_BYTES {
            match self.input.read(&mut self.buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        self.unread = 0..filled;
        Ok(())
    }

    /// Some content, at most as much as fits; 0 at the end. `stop` stops between two blocks, if one ends.
    ///
    /// # Errors
    /// The stream is damaged or ends early.
    pub(crate) fn read(&mut self, out: &mut [u8], stop: bool) -> io::Result<usize> {
        while self.ready.is_empty() {
            if self.done {
                return Ok(0);
            }
            if self.unread.is_empty() {
                self.fill()?;
            }
            self.step(stop)?;
        }
        let count = out.len().min(self.ready.len());
        out[..count].copy_from_slice(&self.window[self.ready.start..self.ready.start + count]);
        self.ready.start += count;
        Ok(count)
    }

    fn step(&mut self, stop: bool) -> io::Result<()> {
        let from = self.ready.end % WINDOW_BYTES;
        let stop = if stop { TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY } else { 0 };
        let Range { start, end } = self.unread;
        let input = &self.buffer[start..end.min(start + STEP_BYTES)];
        let at_end = input.is_empty();
        let (status, read, made) =
            decompress(&mut self.decoder, input, &mut self.window, from, TINFL_FLAG_HAS_MORE_INPUT | stop);
        self.unread.start += read;
        self.ready = from..from + made;
        self.between = status == TINFLStatus::BlockBoundary;
        match status {
            TINFLStatus::Done => self.done = true,
            TINFLStatus::NeedsMoreInput if at_end && made == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput | TINFLStatus::BlockBoundary => {}
            _ => return Err(invalid("its compressed bytes are damaged")),
        }
        Ok(())
    }

    /// Read what is left of the input, so that its authentication is checked.
    ///
    /// # Errors
    /// What reading answers.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.input, &mut io::sink()).map(drop)
    }
}
