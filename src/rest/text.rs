//! `POST /buckets/ORIGIN/put` of the predecessor: `{"data":{"name":"N","content":"C"}}`. The content streams out of its JSON string
//! when the name comes before it, as the predecessor's clients send it; it is never held as a whole.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read};
use utoipa::ToSchema;

/// Most bytes of a string that is held: a key, the name, and content that comes before the name.
const HELD: usize = 2 << 20;
/// Most brackets that may be open in what nobody asked for.
const DEPTH: usize = 128;
const NOT_TEXT: &str = "a string is not UTF-8";
/// Bytes of JSON that are decoded at once.
const PIECE: usize = 64 << 10;

/// A file on its way, read up to its content. Read on, it gives the content; it ends well when all of the JSON does.
pub(super) struct TextPut<R> {
    /// The name of the file.
    pub(super) name: String,
    json: Json<R>,
    /// Content that is decoded and not yet read.
    ready: Vec<u8>,
    read: usize,
    at: At,
    fault: Option<Error>,
}

/// The whole of it, as the OpenAPI document shows it.
#[derive(Serialize, Deserialize, ToSchema)]
pub(super) struct Text {
    data: TextFile,
}

#[derive(Serialize, Deserialize, ToSchema)]
struct TextFile {
    /// The path of the file.
    name: String,
    /// What will be in it.
    content: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the string of the content.
    Content,
    /// Behind it, in `data`.
    Data,
    End,
}

impl<R: Read> TextPut<R> {
    /// Read up to the content.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is not the JSON that is expected, [`Kind::TooLarge`] when a long content comes before the name.
    pub(super) fn open(input: R) -> Result<TextPut<R>> {
        TextPut::begin(input).map_err(|e| fault_of(&e))
    }

    fn begin(input: R) -> io::Result<TextPut<R>> {
        let mut json = Json { input: BufReader::with_capacity(PIECE, input), fresh: false };
        let (mut name, mut content) = (None, None);
        json.open_data()?;
        while let Some(key) = json.key()? {
            match key.as_str() {
                "name" if name.is_none() => name = Some(json.string()?),
                "content" if content.is_none() => match name.take() {
                    Some(name) => {
                        json.take(b'"')?;
                        return Ok(TextPut { name, json, ready: Vec::new(), read: 0, at: At::Content, fault: None });
                    }
                    None => content = Some(json.string()?),
                },
                "name" | "content" => return Err(wrong(&format!("two fields called {key}"))),
                _ => json.skip()?,
            }
        }
        json.close()?;
        match (name, content) {
            (None, _) => Err(wrong("data has no field called name")),
            (_, None) => Err(wrong("data has no field called content")),
            (Some(name), Some(content)) => {
                Ok(TextPut { name, json, ready: content.into_bytes(), read: 0, at: At::End, fault: None })
            }
        }
    }

    /// Why it ended with an error, when that is the JSON's fault.
    pub(super) fn fault(&mut self) -> Option<Error> {
        self.fault.take()
    }

    /// Have something ready, unless it is the end.
    fn fill(&mut self) -> io::Result<()> {
        while self.read == self.ready.len() && self.at != At::End {
            self.ready.clear();
            self.read = 0;
            if self.at == At::Data {
                self.finish()?;
                self.at = At::End;
            } else if self.json.piece(&mut self.ready)? {
                self.at = At::Data;
            }
        }
        Ok(())
    }

    /// What follows the content: nothing of importance, but a body that is broken off stores no file.
    fn finish(&mut self) -> io::Result<()> {
        while let Some(key) = self.json.key()? {
            if key == "name" || key == "content" {
                return Err(wrong(&format!("two fields called {key}")));
            }
            self.json.skip()?;
        }
        self.json.close()
    }
}

impl<R: Read> Read for TextPut<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Err(e) = self.fill() {
            if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::FileTooLarge) {
                self.fault = Some(fault_of(&e));
            }
            return Err(e);
        }
        let count = out.len().min(self.ready.len() - self.read);
        out[..count].copy_from_slice(&self.ready[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What a client hears of it. A body that breaks off or comes too slowly is told by whoever gives it.
fn fault_of(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Error::new(Kind::TooLarge, error.to_string()),
        _ => Error::new(Kind::Usage, format!("the body is not the JSON that is expected: {error}")),
    }
}

/// JSON, mark by mark.
struct Json<R> {
    input: BufReader<R>,
    /// Nothing was read yet of the object that we are in.
    fresh: bool,
}

impl<R: Read> Json<R> {
    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.input.fill_buf()?.first().copied())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.peek()?.ok_or_else(|| wrong("it ends in the middle"))?;
        self.input.consume(1);
        Ok(byte)
    }

    /// The next byte that is no white space; it is left there.
    fn mark(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.input.consume(1);
        }
        Ok(None)
    }

    fn take(&mut self, wanted: u8) -> io::Result<()> {
        match self.mark()? {
            Some(found) if found == wanted => {
                self.input.consume(1);
                Ok(())
            }
            Some(found) => Err(wrong(&format!("{:?} where {:?} should be", char::from(found), char::from(wanted)))),
            None => Err(wrong("it ends in the middle")),
        }
    }

    /// Into the object, and into its `data`.
    fn open_data(&mut self) -> io::Result<()> {
        self.take(b'{')?;
        self.fresh = true;
        while let Some(key) = self.key()? {
            if key == "data" {
                self.fresh = true;
                return self.take(b'{');
            }
            self.skip()?;
        }
        Err(wrong("there is no field called data"))
    }

    /// Out of the object around `data`, to the end of the body.
    fn close(&mut self) -> io::Result<()> {
        while let Some(key) = self.key()? {
            if key == "data" {
                return Err(wrong("two fields called data"));
            }
            self.skip()?;
        }
        self.mark()?.map_or(Ok(()), |_| Err(wrong("something follows the JSON")))
    }

    /// The next key of the object that we are in, up to its colon; none at the object's end.
    fn key(&mut self) -> io::Result<Option<String>> {
        let fresh = std::mem::take(&mut self.fresh);
        if self.mark()? == Some(b'}') {
            self.input.consume(1);
            return Ok(None);
        }
        if !fresh {
            self.take(b',')?;
        }
        let key = self.string()?;
        self.take(b':')?;
        Ok(Some(key))
    }

    /// A string that is held.
    fn string(&mut self) -> io::Result<String> {
        self.take(b'"')?;
        let mut bytes = Vec::new();
        while !self.piece(&mut bytes)? {
            if bytes.len() > HELD {
                let text = "a content of more than 2 MiB must come after the name";
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
            }
        }
        String::from_utf8(bytes).map_err(|_| wrong(NOT_TEXT))
    }

    /// Pass over a value.
    fn skip(&mut self) -> io::Result<()> {
        let mut open = 0_usize;
        loop {
            match self.mark()?.ok_or_else(|| wrong("it ends in the middle"))? {
                b'"' => drop(self.string()?),
                b'{' | b'[' if open < DEPTH => {
                    self.input.consume(1);
                    open += 1;
                }
                b'}' | b']' if open > 0 => {
                    self.input.consume(1);
                    open -= 1;
                }
                b',' | b':' if open > 0 => self.input.consume(1),
                b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E' => {
                    while self.peek()?.is_some_and(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b)) {
                        self.input.consume(1);
                    }
                }
                found => return Err(wrong(&format!("{:?} where a value should be", char::from(found)))),
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Decode more of the string that we are in, at the end of `out`, in whole characters; true behind its end.
    fn piece(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let start = out.len();
        // What was looked at and is text.
        let mut checked = start;
        let ended = loop {
            let held = self.input.fill_buf()?;
            let plain = held.iter().position(|b| *b < b' ' || *b == b'"' || *b == b'\\').unwrap_or(held.len());
            out.extend_from_slice(&held[..plain]);
            let rest = held.len() - plain;
            self.input.consume(plain);
            if rest == 0 {
                if plain == 0 {
                    return Err(wrong("it ends in the middle"));
                }
                // A character may be cut in two here, and only here.
                match std::str::from_utf8(&out[checked..]) {
                    Ok(_) => checked = out.len(),
                    Err(e) if e.error_len().is_some() => return Err(wrong(NOT_TEXT)),
                    Err(e) => checked += e.valid_up_to(),
                }
                if checked == out.len() && checked - start >= PIECE {
                    return Ok(false);
                }
                continue;
            }
            match self.byte()? {
                b'"' => break true,
                b'\\' => self.escaped(out)?,
                _ => return Err(wrong("a control character in a string")),
            }
            if out.len() - start >= PIECE {
                break false;
            }
        };
        std::str::from_utf8(&out[checked..]).map(|_| ended).map_err(|_| wrong(NOT_TEXT))
    }

    /// What stands behind a backslash.
    fn escaped(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        out.push(match self.byte()? {
            same @ (b'"' | b'\\' | b'/') => same,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let mut unit = [self.unit()?, 0];
                let mut units = 1;
                if (0xd800..0xdc00).contains(&unit[0]) && self.byte()? == b'\\' && self.byte()? == b'u' {
                    unit[1] = self.unit()?;
                    units = 2;
                }
                let decoded = String::from_utf16(&unit[..units]).map_err(|_| wrong("half a surrogate pair"))?;
                out.extend_from_slice(decoded.as_bytes());
                return Ok(());
            }
            _ => return Err(wrong("an escape that JSON does not have")),
        });
        Ok(())
    }

    /// Four hex digits.
    fn unit(&mut self) -> io::Result<u16> {
        (0..4).try_fold(0, |unit, _| {
            let digit =
                char::from(self.byte()?).to_digit(16).ok_or_else(|| wrong("an escape that JSON does not have"))?;
            Ok(unit << 4 | digit as u16)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many bytes at once.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    /// Name and content, or what the client hears.
    fn streamed(json: &[u8], at_once: usize) -> Result<(String, String)> {
        let mut text = TextPut::open(Slowly(json, at_once))?;
        let mut content = Vec::new();
        match text.read_to_end(&mut content) {
            Ok(_) => Ok((text.name, String::from_utf8(content).unwrap())),
            Err(_) => Err(text.fault().unwrap()),
        }
    }

    /// Everywhere the same as what reads it as a whole.
    fn check(json: &[u8]) {
        let whole: std::result::Result<Text, _> = serde_json::from_slice(json);
        for at_once in [1, 2, 3, 7, usize::MAX] {
            let shown = String::from_utf8_lossy(&json[..json.len().min(200)]);
            match (&whole, streamed(json, at_once)) {
                (Ok(Text { data }), Ok(found)) => assert_eq!(found, (data.name.clone(), data.content.clone())),
                (Err(_), Err(error)) => assert_eq!(error.kind, Kind::Usage, "{shown}"),
                (whole, found) => panic!("{shown}: {:?}, streamed {found:?}", whole.is_ok()),
            }
        }
    }

    #[test]
    fn it_is_the_json_that_others_read() {
        let good = [
            r#"{"data":{"name":"a","content":"b"}}"#,
            " {\t\"data\" : {\r\n\"name\":\"a/b\" , \"content\" :\"\"} } \n",
            r#"{"more":[1,{"x":"}\""},null,-1.5e+3],"data":{"x":{},"name":"n","y":[],"content":"c","z":true},"last":"x"}"#,
            r#"{"data":{"content":"first","name":"second"}}"#,
            r#"{"data":{"name":"\u00e4","content":"\"\\\/\b\f\n\r\t\u0000\u20ac\ud83d\ude00 \u00E4 äöü€😀"}}"#,
        ];
        for json in good {
            assert!(serde_json::from_str::<Text>(json).is_ok(), "{json}");
            check(json.as_bytes());
            for end in 0..json.trim_end().len() {
                check(&json.as_bytes()[..end]);
            }
        }
        let long = format!(r#"{{"data":{{"name":"n","content":"{}"}}}}"#, r"a😀\n€\u00e4".repeat(40_000));
        check(long.as_bytes());
    }

    #[test]
    fn what_others_refuse_is_refused() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"data":1}"#,
            r#"{"data":{}}"#,
            r#"{"data":{"name":"a"}}"#,
            r#"{"data":{"content":"a"}}"#,
            r#"{"data":{"name":1,"content":"a"}}"#,
            r#"{"data":{"name":"a","content":1}}"#,
            r#"{"data":{"name":"a","content":"b"}} x"#,
            r#"{"data":{"name":"a","content":"b"}}}"#,
            r#"{"data":{"name":"a","content":"b",}}"#,
            r#"{"data":{"name":"a" "content":"b"}}"#,
            r#"{,"data":{"name":"a","content":"b"}}"#,
            r#"{"data":{"name":"a","content":"b","content":"c"}}"#,
            r#"{"data":{"name":"a","name":"b","content":"c"}}"#,
            r#"{"data":{"name":"a","content":"\ud800"}}"#,
            r#"{"data":{"name":"a","content":"\ud800\u0041"}}"#,
            r#"{"data":{"name":"a","content":"\udc00"}}"#,
            r#"{"data":{"name":"a","content":"\x"}}"#,
            r#"{"data":{"name":"a","content":"\u12g4"}}"#,
            "{\"data\":{\"name\":\"a\",\"content\":\"\n\"}}",
            r#"{"data":{"name":"a","content":"b"},"data":{}}"#,
        ] {
            assert!(serde_json::from_str::<Text>(json).is_err(), "{json}");
            check(json.as_bytes());
        }
        for bytes in [&b"\xff"[..], b"\xc3", b"\xc3\\n", b"\xed\xa0\x80", b"a\xf0\x9f\x98"] {
            check(&[br#"{"data":{"name":"a","content":""#, bytes, br#""}}"#].concat());
        }
    }

    #[test]
    fn a_long_content_streams_behind_the_name_alone() {
        let content = "x".repeat(3 << 20);
        let json = |fields: &str| format!(r#"{{"data":{{{fields}}}}}"#);
        let behind = json(&format!(r#""name":"n","content":"{content}""#));
        assert!(streamed(behind.as_bytes(), usize::MAX).unwrap().1 == content);
        let before = json(&format!(r#""content":"{content}","name":"n""#));
        assert_eq!(streamed(before.as_bytes(), usize::MAX).unwrap_err().kind, Kind::TooLarge);
        let mut text = TextPut::open(behind.as_bytes()).unwrap();
        let mut part = [0; 1000];
        while text.read(&mut part).unwrap() > 0 {
            assert!(text.ready.capacity() < 4 * PIECE, "{}", text.ready.capacity());
        }
    }
}
