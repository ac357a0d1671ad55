//! Header compression (RFC 7541), as much as a lean client needs.
//!
//! Requests are encoded once, as literals that enter no table, so an encoded block can be sent again
//! unchanged on any connection. Responses are decoded in full, dynamic table and Huffman strings
//! included, because a server may use either for `grpc-status`.

use std::collections::VecDeque;
use std::sync::OnceLock;

use super::tables::{HUFFMAN_BITS, STATIC_TABLE};

/// What an entry of the dynamic table costs beyond its two strings (RFC 7541 §4.1).
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// The dynamic table's size limit while neither side has said anything else.
const TABLE_BYTES_DEFAULT: usize = 4096;
/// The longest Huffman code in bits.
const HUFFMAN_BITS_MAX: usize = 30;

/// Why a header block could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedHeaders(pub(super) &'static str);

/// Appends one header as a literal that the peer must not put into its table.
pub(super) fn encode_literal(name: &str, value: &str, block: &mut Vec<u8>) {
    block.push(0);
    encode_integer(name.len(), 7, 0, block);
    block.extend_from_slice(name.as_bytes());
    encode_integer(value.len(), 7, 0, block);
    block.extend_from_slice(value.as_bytes());
}

/// Appends `value` with a prefix of `prefix_bits`; `first` holds the bits above the prefix.
fn encode_integer(value: usize, prefix_bits: u32, first: u8, block: &mut Vec<u8>) {
    let limit = (1usize << prefix_bits) - 1;
    if value < limit {
        block.push(first | value as u8);
        return;
    }
    block.push(first | limit as u8);
    let mut rest = value - limit;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The receiving side of one connection's header compression.
///
/// Invariant: `table_bytes` is the sum of the entries' costs and never exceeds `table_bytes_max`.
#[derive(Debug)]
pub(super) struct Decoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    table_bytes: usize,
    table_bytes_max: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            table_bytes: 0,
            table_bytes_max: TABLE_BYTES_DEFAULT,
        }
    }
}

impl Decoder {
    /// Decodes one whole header block and shows each header to `visit`.
    ///
    /// # Errors
    /// The block contradicts RFC 7541; the connection is unusable afterwards, because the tables of
    /// the two sides no longer agree.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), MalformedHeaders> {
        let mut input = Input { bytes: block };
        while let Some(first) = input.peek() {
            if first & 0x80 != 0 {
                let index = input.integer(7)?;
                let (name, value) = self.entry(index)?;
                visit(name, value);
            } else if first & 0xc0 == 0x40 {
                let (name, value) = self.literal(&mut input, 6)?;
                visit(&name, &value);
                self.insert(name, value);
            } else if first & 0xe0 == 0x20 {
                let bytes_max = input.integer(5)?;
                if bytes_max > TABLE_BYTES_DEFAULT {
                    return Err(MalformedHeaders("table size above the announced limit"));
                }
                self.table_bytes_max = bytes_max;
                self.evict(0);
            } else {
                let (name, value) = self.literal(&mut input, 4)?;
                visit(&name, &value);
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), MalformedHeaders> {
        match index {
            0 => Err(MalformedHeaders("index 0")),
            1..=61 => {
                let (name, value) = STATIC_TABLE[index - 1];
                Ok((name.as_bytes(), value.as_bytes()))
            }
            _ => self
                .table
                .get(index - 62)
                .map(|(name, value)| (name.as_slice(), value.as_slice()))
                .ok_or(MalformedHeaders("index beyond the table")),
        }
    }

    fn literal(
        &self,
        input: &mut Input<'_>,
        prefix_bits: u32,
    ) -> Result<(Vec<u8>, Vec<u8>), MalformedHeaders> {
        let index = input.integer(prefix_bits)?;
        let name = match index {
            0 => input.string()?,
            _ => self.entry(index)?.0.to_vec(),
        };
        Ok((name, input.string()?))
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        let cost = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict(cost);
        if cost <= self.table_bytes_max {
            self.table_bytes += cost;
            self.table.push_front((name, value));
        }
    }

    /// Drops the oldest entries until `room` more bytes fit, or until nothing is left.
    fn evict(&mut self, room: usize) {
        while self.table_bytes + room > self.table_bytes_max {
            let Some((name, value)) = self.table.pop_back() else {
                return;
            };
            self.table_bytes -= name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        }
    }
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    fn byte(&mut self) -> Result<u8, MalformedHeaders> {
        let (first, rest) = self
            .bytes
            .split_first()
            .ok_or(MalformedHeaders("the block ends inside a field"))?;
        self.bytes = rest;
        Ok(*first)
    }

    fn integer(&mut self, prefix_bits: u32) -> Result<usize, MalformedHeaders> {
        let limit = (1usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & limit;
        if value < limit {
            return Ok(value);
        }
        for shift in (0..28).step_by(7) {
            let byte = self.byte()?;
            value += usize::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err(MalformedHeaders("an integer is too long"))
    }

    fn string(&mut self) -> Result<Vec<u8>, MalformedHeaders> {
        let huffman = self.peek().is_some_and(|byte| byte & 128 != 0);
        let len = self.integer(7)?;
        if len > self.bytes.len() {
            return Err(MalformedHeaders("a string reaches beyond the block"));
        }
        let (text, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        if huffman {
            decode_huffman(text)
        } else {
            Ok(text.to_vec())
        }
    }
}

/// The canonical code, sorted by length and then by symbol.
struct HuffmanCode {
    /// Symbols in code order.
    symbols: Vec<u8>,
    /// For each length: the first code of that length and where its symbols begin.
    first: [(u32, usize); HUFFMAN_BITS_MAX + 2],
}

fn huffman_code() -> &'static HuffmanCode {
    static CODE: OnceLock<HuffmanCode> = OnceLock::new();
    CODE.get_or_init(|| {
        let mut symbols = Vec::with_capacity(256);
        let mut first = [(0u32, 0usize); HUFFMAN_BITS_MAX + 2];
        let mut code = 0u32;
        for (bits, entry) in first.iter_mut().enumerate().skip(1) {
            *entry = (code, symbols.len());
            for (symbol, length) in HUFFMAN_BITS.iter().enumerate() {
                if usize::from(*length) == bits {
                    symbols.push(symbol as u8);
                    code += 1;
                }
            }
            code <<= 1;
        }
        HuffmanCode { symbols, first }
    })
}

fn decode_huffman(text: &[u8]) -> Result<Vec<u8>, MalformedHeaders> {
    let code_table = huffman_code();
    let mut decoded = Vec::with_capacity(text.len() * 2);
    let (mut code, mut bits) = (0u32, 0usize);
    for byte in text {
        for position in (0..8).rev() {
            code = code << 1 | u32::from(byte >> position & 1);
            bits += 1;
            if bits > HUFFMAN_BITS_MAX {
                return Err(MalformedHeaders("a Huffman code is too long"));
            }
            let (first, begin) = code_table.first[bits];
            let (_, end) = code_table.first[bits + 1];
            let offset = code.wrapping_sub(first) as usize;
            if code >= first && offset < end - begin {
                decoded.push(code_table.symbols[begin + offset]);
                (code, bits) = (0, 0);
            }
        }
    }
    // Padding: fewer than eight bits, all ones.
    if bits >= 8 || code != (1 << bits) - 1 {
        return Err(MalformedHeaders("wrong Huffman padding"));
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(decoder: &mut Decoder, hex: &str) -> Vec<(String, String)> {
        let hex: String = hex.split_whitespace().collect();
        let block: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let mut headers = Vec::new();
        decoder
            .decode(&block, |name, value| {
                headers.push((
                    String::from_utf8_lossy(name).into_owned(),
                    String::from_utf8_lossy(value).into_owned(),
                ));
            })
            .unwrap();
        headers
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    /// The response examples with Huffman strings and evictions of RFC 7541 appendix C.6, whose
    /// table is limited to 256 bytes.
    #[test]
    fn decodes_the_examples_of_the_standard() {
        let mut decoder = Decoder {
            table_bytes_max: 256,
            ..Decoder::default()
        };
        let first = decode(
            &mut decoder,
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        );
        assert_eq!(
            first,
            [
                pair(":status", "302"),
                pair("cache-control", "private"),
                pair("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                pair("location", "https://www.example.com"),
            ]
        );
        let second = decode(&mut decoder, "4883 640e ffc1 c0bf");
        assert_eq!(second[0], pair(":status", "307"));
        assert_eq!(second[3], pair("location", "https://www.example.com"));
        assert_eq!(decoder.table_bytes, 222);
    }

    #[test]
    fn encoded_literals_decode_to_themselves_and_enter_no_table() {
        let mut block = Vec::new();
        let long = "x".repeat(300);
        encode_literal(":path", "/etcdserverpb.KV/Put", &mut block);
        encode_literal("long", &long, &mut block);
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        decoder
            .decode(&block, |name, value| {
                seen.push((name.to_vec(), value.to_vec()))
            })
            .unwrap();
        assert_eq!(
            seen[0],
            (b":path".to_vec(), b"/etcdserverpb.KV/Put".to_vec())
        );
        assert_eq!(seen[1].1, long.as_bytes());
        assert_eq!(decoder.table_bytes, 0);
    }

    #[test]
    fn refuses_what_the_standard_forbids() {
        let check = |block: &[u8]| Decoder::default().decode(block, |_, _| {}).unwrap_err();
        assert_eq!(check(&[0x80]).0, "index 0");
        assert_eq!(check(&[0xbe]).0, "index beyond the table");
        assert_eq!(
            check(&[0x40, 0x05, b'a']).0,
            "a string reaches beyond the block"
        );
        assert_eq!(
            check(&[0x3f, 0xff, 0xff, 0x7f]).0,
            "table size above the announced limit"
        );
        assert_eq!(check(&[0x40, 0x81, 0x00]).0, "wrong Huffman padding");
    }
}
