//! A file as a whole: meta pages, page runs, the free list.

use std::io;

use crate::claims::Claims;
use crate::error::ReadError;
use crate::format::{
    FREELIST, META_BYTES, Meta, PAGE_BYTES_RANGE, PAGE_HEADER_BYTES, PageHeader, u64_at,
};
use crate::node::{Kind, NODE_BYTES_MAX, Node, Place};
use crate::walk::{Item, Walk};

/// Ids of a free list are read in pieces of so many bytes.
const FREELIST_PIECE_BYTES: u64 = 64 << 10;
/// A free list with more ids than this field holds has their number in its first 8 bytes.
const COUNT_ELSEWHERE: u16 = 0xffff;

/// Something that is read at any place: a file, or bytes in memory.
pub trait Source {
    /// Fills `into` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Whatever the source says; a source that ends too early says so too.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for &[u8] {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|begin| self.get(begin..)?.get(..into.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
}

/// A database file that is read.
#[derive(Debug)]
pub struct Database<S> {
    source: S,
    meta: Meta,
}

impl<S: Source> Database<S> {
    /// Opens the database in the first `bytes` bytes of `source`. Like bbolt it takes the meta page with the
    /// higher transaction, and the other one if that is damaged.
    ///
    /// # Errors
    /// No meta page is right, or the file is shorter than its meta page says.
    pub fn open(mut source: S, bytes: u64) -> Result<Self, ReadError> {
        let meta = read_metas(&mut source, bytes)?;
        let expected = u128::from(meta.pages) * u128::from(meta.page_bytes);
        if expected > u128::from(bytes) {
            let expected = u64::try_from(expected).unwrap_or(u64::MAX);
            return Err(ReadError::Cut { bytes, expected });
        }
        let database = Self { source, meta };
        let place = Place { page: 0, offset: 0 };
        let in_range = |page: u64| (2..meta.pages).contains(&page);
        if !in_range(meta.root) {
            let what = format!("root page {} of {} pages", meta.root, meta.pages);
            return Err(place.damaged(32, what));
        }
        match meta.freelist {
            Some(page) if !in_range(page) => {
                let what = format!("free list at page {page} of {} pages", meta.pages);
                Err(place.damaged(48, what))
            }
            _ => Ok(database),
        }
    }

    /// What the meta page in force says.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Reads everything, in the order of names and keys; see [`Walk`].
    pub fn walk(&mut self) -> Walk<'_, S> {
        Walk::all(self)
    }

    /// Reads the top-level bucket `name`, if there is one. The buckets before it are looked at, not into.
    ///
    /// # Errors
    /// What is damaged on the way to it.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<Walk<'_, S>>, ReadError> {
        let mut walk = Walk::names(self);
        let found = loop {
            match walk.next()? {
                Some(Item::Bucket { name: met, .. }) if met == name => break walk.position(),
                Some(_) => {}
                None => return Ok(None),
            }
        };
        let Some((node, index)) = found else {
            return Ok(None);
        };
        let root = match node.kind(index) {
            Kind::InlineBucket => Err(node.inline(index)?),
            Kind::Bucket { root } => Ok((root, node.place, node.data_offset(index))),
            Kind::Value => return Ok(None),
        };
        match root {
            Err(inline) => Ok(Some(Walk::of_node(self, inline))),
            Ok((root, place, at)) => Walk::of_page(self, root, place, at).map(Some),
        }
    }

    /// Claims and reads the run of pages that begins at `page`, which `from` refers to at `at`.
    pub(crate) fn load(
        &mut self,
        page: u64,
        claims: &mut Claims,
        mut buffer: Vec<u8>,
        (from, at): (Place, usize),
    ) -> Result<Node, ReadError> {
        if !(2..self.meta.pages).contains(&page) {
            let what = format!("refers to page {page} of {} pages", self.meta.pages);
            return Err(from.damaged(at, what));
        }
        let page_bytes = u64::from(self.meta.page_bytes);
        let place = Place {
            page,
            offset: page * page_bytes,
        };
        buffer.clear();
        buffer.resize(page_bytes as usize, 0);
        self.read(place.offset, &mut buffer)?;
        let header = PageHeader::decode(&buffer);
        let pages = self.check_run(header, place, claims)?;
        let bytes = pages * page_bytes;
        if bytes > NODE_BYTES_MAX {
            let what = format!("{bytes} bytes in one node, more than {NODE_BYTES_MAX}");
            return Err(place.damaged(12, what));
        }
        if pages > 1 {
            buffer.resize(bytes as usize, 0);
            self.read(
                place.offset + page_bytes,
                &mut buffer[page_bytes as usize..],
            )?;
        }
        Node::check(buffer, place)
    }

    /// Checks id and length of the run that begins with `header`, claims it, and says how many pages it has.
    fn check_run(
        &self,
        header: PageHeader,
        place: Place,
        claims: &mut Claims,
    ) -> Result<u64, ReadError> {
        if header.id != place.page {
            return Err(place.damaged(0, format!("says that it is page {}", header.id)));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > self.meta.pages - place.page {
            let what = format!("{pages} pages run behind the end at {}", self.meta.pages);
            return Err(place.damaged(12, what));
        }
        claims
            .claim(place.page..place.page + pages)
            .map_err(|twice| place.damaged(12, format!("page {twice} has two uses")))?;
        Ok(pages)
    }

    /// Checks the free list, if there is one, against what is in use: each page is one or the other.
    pub(crate) fn check_freelist(&mut self, claims: &mut Claims) -> Result<(), ReadError> {
        let Some(page) = self.meta.freelist else {
            return Ok(());
        };
        let page_bytes = u64::from(self.meta.page_bytes);
        let place = Place {
            page,
            offset: page * page_bytes,
        };
        let mut head = [0; PAGE_HEADER_BYTES + 8];
        self.read(place.offset, &mut head)?;
        let header = PageHeader::decode(&head);
        if header.flags != FREELIST {
            let what = format!("flags {:#x}, no free list", header.flags);
            return Err(place.damaged(8, what));
        }
        let run = self.check_run(header, place, claims)? * page_bytes;
        let (first, count) = match header.count {
            COUNT_ELSEWHERE => (PAGE_HEADER_BYTES + 8, u64_at(&head, PAGE_HEADER_BYTES)),
            count => (PAGE_HEADER_BYTES, u64::from(count)),
        };
        if count > (run - first as u64) / 8 {
            let what = format!("{count} free pages in {run} bytes");
            return Err(place.damaged(10, what));
        }
        self.check_free_pages(place, first as u64, count, claims)?;
        match claims.first_unclaimed(2..self.meta.pages) {
            None => Ok(()),
            Some(page) => {
                let offset = page * page_bytes;
                let place = Place { page, offset };
                Err(place.damaged(0, "neither in use nor in the free list"))
            }
        }
    }

    fn check_free_pages(
        &mut self,
        place: Place,
        first: u64,
        count: u64,
        claims: &mut Claims,
    ) -> Result<(), ReadError> {
        let end = first + count * 8;
        let mut at = first;
        let mut piece = vec![0; FREELIST_PIECE_BYTES.min(count * 8) as usize];
        while at < end {
            let bytes = FREELIST_PIECE_BYTES.min(end - at) as usize;
            self.read(place.offset + at, &mut piece[..bytes])?;
            for id in piece[..bytes].chunks_exact(8) {
                let page = u64_at(id, 0);
                if !(2..self.meta.pages).contains(&page) {
                    let what = format!("free page {page} of {} pages", self.meta.pages);
                    return Err(place.damaged(at as usize, what));
                }
                if claims.claim(page..page + 1).is_err() {
                    let what = format!("page {page} is free, and something else too");
                    return Err(place.damaged(at as usize, what));
                }
                at += 8;
            }
        }
        Ok(())
    }

    /// Reads bytes of the file, whatever they are.
    pub(crate) fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.source
            .read_at(offset, into)
            .map_err(|error| ReadError::Io { offset, error })
    }
}

/// Reads both meta pages and takes the one that counts.
fn read_metas<S: Source>(source: &mut S, bytes: u64) -> Result<Meta, ReadError> {
    let first = read_meta(source, bytes, 0, 0)?;
    let second = match &first {
        Ok(meta) => read_meta(source, bytes, u64::from(meta.page_bytes), 1)?,
        Err(_) => find_second_meta(source, bytes)?,
    };
    match (first, second) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(first), _) => Ok(first),
        (Err(_), Ok(second)) => Ok(second),
        (Err((at, first)), Err((_, second))) => Err(ReadError::NoMeta {
            first_offset: at as u64,
            first,
            second,
        }),
    }
}

type MaybeMeta = Result<Meta, (usize, String)>;

/// Without the first meta page the page size is unknown: the second one tells its own.
fn find_second_meta<S: Source>(source: &mut S, bytes: u64) -> Result<MaybeMeta, ReadError> {
    let mut page_bytes = *PAGE_BYTES_RANGE.start();
    while page_bytes <= *PAGE_BYTES_RANGE.end() {
        let found = read_meta(source, bytes, u64::from(page_bytes), 1)?;
        if found.is_ok() {
            return Ok(found);
        }
        page_bytes *= 2;
    }
    Ok(Err((0, "none at any page size".to_owned())))
}

/// Reads meta page `id` at `offset`.
fn read_meta<S: Source>(
    source: &mut S,
    bytes: u64,
    offset: u64,
    id: u64,
) -> Result<MaybeMeta, ReadError> {
    let mut page = [0; PAGE_HEADER_BYTES + META_BYTES];
    if bytes < offset + page.len() as u64 {
        return Ok(Err((0, format!("the file has {bytes} bytes"))));
    }
    source
        .read_at(offset, &mut page)
        .map_err(|error| ReadError::Io { offset, error })?;
    let meta = Meta::decode_page(&page, id);
    Ok(match meta {
        Ok(meta) if id == 1 && u64::from(meta.page_bytes) != offset => {
            let what = format!("page size {} at offset {offset}", meta.page_bytes);
            Err((PAGE_HEADER_BYTES + 8, what))
        }
        meta => meta,
    })
}
