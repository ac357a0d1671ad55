//! Random appends, writes, reads, walks, checkpoints and restarts, compared with a list.

use super::*;
use crate::store::StoreConfig;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the log must say of one record.
#[derive(Clone)]
struct Said {
    loc: Loc,
    revision: Revision,
    value: Bytes,
    released: bool,
}

/// A durable image and the state that it stands for.
#[derive(Clone)]
struct Image {
    table: Vec<u8>,
    list: Vec<Said>,
}

struct Run {
    config: StoreConfig,
    random: Random,
    log: EventLog,
    files: Files,
    list: Vec<Said>,
    /// The image that a restart begins with.
    durable: Option<Image>,
    /// The list as of the last freeze, while its pieces are being written.
    frozen: Option<Vec<Said>>,
    handed_out: Vec<(Bytes, Bytes)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let first = 4096 << random.below(5);
        let config = StoreConfig {
            segment_bytes_first: first,
            segment_bytes_max: first << random.below(4),
            piece_bytes: 4096 << random.below(3),
            tail_bytes_max: [0, 10_000, 100_000, u64::MAX][random.below(4) as usize],
            value_cache_bytes: [0, 20_000, 1 << 20][random.below(3) as usize],
            ..StoreConfig::new(3, seed)
        };
        Run {
            log: EventLog::new(&config),
            config,
            random,
            files: Files::new(),
            list: Vec::new(),
            durable: None,
            frozen: None,
            handed_out: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.append(),
            40..50 => {
                let slots = self.random.below(5) as usize;
                self.files.poll(&mut self.log, slots);
            }
            50..65 => self.complete(),
            65..80 => self.value(),
            80..88 => self.walk(),
            88..92 => self.release(),
            92..96 => self.checkpoint(),
            96..98 => self.estimate(),
            98 => self.restart(),
            _ => self.log.verify().expect("a valid log"),
        }
    }

    fn append(&mut self) {
        for _ in 0..1 + self.random.below(20) {
            let len = match self.random.below(400) {
                0 => 30_000 + self.random.below(100_000),
                1..20 => self.random.below(9_000),
                _ => self.random.below(150),
            };
            let last = self.log.last();
            let revision = match self.random.below(3) {
                0 if last.main > 0 => Revision {
                    sub: last.sub + 1 + self.random.below(3) as u32,
                    ..last
                },
                _ => Revision {
                    main: last.main + 1 + self.random.below(5) as i64,
                    sub: self.random.below(2) as u32,
                },
            };
            let value = vec![self.random.next() as u8; len as usize];
            let record = Record {
                tombstone: false,
                revision,
                create: 1,
                version: 1 + self.random.below(9) as i64,
                lease: LeaseId::NONE,
                key: &[b'k'; 40][..1 + self.random.below(40) as usize],
                value: &value,
            };
            let loc = self.log.append(&record);
            self.list.push(Said {
                loc,
                revision,
                value: Bytes::from(value),
                released: false,
            });
        }
    }

    fn complete(&mut self) {
        if self.files.pending.is_empty() {
            return;
        }
        let index = self.random.below(self.files.pending.len() as u64) as usize;
        if self.random.below(10) == 0 {
            let done = self.files.fail(&mut self.log, index, IoFailure::NoSpace);
            assert_eq!(done, Completed::NoSpace);
            self.files.poll(&mut self.log, 0);
            self.log.retry_space();
        } else {
            self.files.execute(&mut self.log, index);
        }
        if let Some(list) = &self.frozen
            && self.log.is_frozen_written()
        {
            let files = self.log.files_to_sync();
            assert!(files.iter().all(|file| self.files.bytes.contains_key(file)));
            let table = self.log.frozen_table();
            let list = list.clone();
            self.durable = Some(Image { table, list });
            self.frozen = None;
            self.log.published();
        }
    }

    fn one_of_the_list(&mut self) -> Option<Said> {
        let count = self.list.len() as u64;
        (count > 0).then(|| self.list[self.random.below(count) as usize].clone())
    }

    fn value(&mut self) {
        for _ in 0..10 {
            let Some(said) = self.one_of_the_list() else {
                return;
            };
            let known = (self.random.below(2) == 0).then_some(said.revision);
            let value = self
                .files
                .settle(&mut self.log, |log| log.value(said.loc, known))
                .expect("an undamaged record");
            assert_eq!(value, said.value, "{:?}", said.loc);
            assert!(self.log.is_resident(said.loc));
            if self.random.below(50) == 0 {
                self.handed_out.push((value, said.value));
            }
        }
    }

    fn walk(&mut self) {
        let last = self.log.last().main;
        let main = self.random.below(last as u64 + 3) as i64;
        let count = self.random.below(200) as usize;
        let (found, error) = self.files.walk(&mut self.log, main, count);
        assert_eq!(error, None);
        let first = self.list.partition_point(|said| said.revision.main < main);
        let expected = &self.list[first..];
        assert_eq!(found.len(), expected.len().min(count), "from {main}");
        for ((loc, revision, value), said) in found.iter().zip(expected) {
            assert_eq!(
                (loc, revision, value),
                (&said.loc, &said.revision, &said.value)
            );
        }
        for hint in self.log.take_hints() {
            self.files
                .load(&mut self.log, &hint)
                .expect("a hint that holds");
        }
    }

    fn release(&mut self) {
        let count = self.list.len() as u64;
        if count == 0 {
            return;
        }
        let said = &mut self.list[self.random.below(count) as usize];
        if !said.released {
            said.released = true;
            self.log.release(said.loc);
        }
        self.check_live_bytes();
    }

    fn check_live_bytes(&self) {
        let mut live: BTreeMap<SegmentId, u64> = BTreeMap::new();
        for said in &self.list {
            let len = if said.released { 0 } else { said.loc.len };
            *live.entry(said.loc.segment).or_default() += u64::from(len);
        }
        let counted: BTreeMap<SegmentId, u64> = self.log.live_bytes_of_segments().collect();
        assert_eq!(counted, live);
        assert_eq!(self.log.live_bytes(), live.values().sum::<u64>());
    }

    fn checkpoint(&mut self) {
        if self.frozen.is_none() {
            self.log.freeze();
            self.frozen = Some(self.list.clone());
        }
    }

    fn estimate(&mut self) {
        let Some(said) = self.one_of_the_list() else {
            return;
        };
        let main = said.revision.main;
        let exact = self.list.len() - self.list.partition_point(|said| said.revision.main <= main);
        let estimate = self.log.estimate_after(main) as usize;
        let within = self.config.piece_bytes as usize / RECORD_HEADER_BYTES;
        assert!(
            (exact..exact + within).contains(&estimate),
            "{estimate} of {exact}"
        );
    }

    /// The process is killed: what was not written is lost, what was written behind the image stays as
    /// garbage, requests in flight reach the disk or do not.
    fn restart(&mut self) {
        while !self.files.pending.is_empty() {
            let index = self.random.below(self.files.pending.len() as u64) as usize;
            if self.random.below(2) == 0 {
                self.files.execute(&mut self.log, index);
            } else {
                self.files.pending.remove(index);
            }
        }
        self.frozen = None;
        match self.durable.clone() {
            None => {
                self.files.bytes.clear();
                self.list.clear();
                self.log = EventLog::new(&self.config);
            }
            Some(image) => {
                let table = &image.table;
                self.log =
                    EventLog::restore(&self.config, table).expect("a table that was written");
                let named: BTreeMap<FileName, u64> = self.log.files().collect();
                self.files.bytes.retain(|file, _| named.contains_key(file));
                for (file, least) in named {
                    assert!(self.files.bytes[&file].len() as u64 >= least);
                }
                self.list = image.list;
            }
        }
        assert!(self.log.is_frozen_written());
        self.log.verify().expect("a valid log");
        self.check_live_bytes();
        let last = self
            .list
            .last()
            .map_or(Revision::default(), |said| said.revision);
        assert_eq!(self.log.last(), last);
    }

    fn check_bounds(&self) {
        let largest = 140_000;
        let windows = self.config.value_cache_bytes / 4;
        assert!(self.log.windows.bytes() <= windows.max(largest));
        assert!(self.log.records.bytes() <= self.config.value_cache_bytes.max(largest));
        for (handed_out, said) in &self.handed_out {
            assert_eq!(handed_out, said);
        }
    }
}

/// How much more work than by default `RINGD_TEST_BUDGET` asks for.
fn budget() -> u64 {
    std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

#[test]
fn equals_a_list() {
    let (mut restarts, mut evicted) = (0, 0);
    for seed in 0..60 * budget() {
        let mut run = Run::new(seed);
        for _ in 0..1_500 {
            run.step();
        }
        run.check_bounds();
        restarts += u64::from(run.durable.is_some());
        evicted += u64::from(run.log.history.tail.get(0).is_none());
        run.files.drain(&mut run.log);
        run.log.freeze();
        run.files.drain(&mut run.log);
        assert!(run.log.is_frozen_written());
        run.frozen = None;
        for _ in 0..20 {
            run.value();
            run.walk();
        }
    }
    assert!(restarts > 20 && evicted > 20, "{restarts} {evicted}");
}
