//! Pages against a sorted vector, and images against damage.

use super::*;

const SALT: u64 = 0x5a17;

impl Page {
    fn set_identity(&mut self, address: u64, generation: u32) {
        self.bytes[at::ADDRESS..][..8].copy_from_slice(&address.to_le_bytes());
        self.set_u32(at::GENERATION, generation);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn key_set_page(random: &mut Random) -> Page {
    let mut page = Page::new(PageKind::KeySet, 0, b"pre/b", Some(b"pre/x"));
    for _ in 0..random.below(600) {
        let len = random.below(20);
        let mut key = b"pre/".to_vec();
        key.push(b'b' + random.below(22) as u8);
        key.extend((0..len).map(|_| b'a' + random.below(4) as u8));
        if let Err(index) = page.search(&key)
            && page.fits(&key, 0)
        {
            page.insert(index, &key, b"");
        }
    }
    page.verify().expect("a valid page");
    page
}

fn reference_of(page: &Page) -> PageRef {
    PageRef {
        address: 77,
        blocks: page.blocks(),
        generation: 9,
    }
}

fn expectation(page: &Page) -> Expectation {
    Expectation {
        shard: 2,
        salt: SALT,
        reference: reference_of(page),
    }
}

fn keys(page: &Page) -> Vec<Vec<u8>> {
    (0..page.len()).map(|index| page.key(index)).collect()
}

#[test]
fn cells_stay_sorted_through_inserts_replacements_and_removals() {
    let mut random = Random(1);
    for _ in 0..50 {
        let mut page = Page::new(PageKind::KeySet, 0, b"a", Some(b"c"));
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..2_000 {
            let mut key = vec![b'a' + random.below(2) as u8];
            let len = random.below(8);
            key.extend((0..len).map(|_| [0, b'x', 0xff][random.below(3) as usize]));
            let payload = vec![random.below(256) as u8; random.below(60) as usize];
            match page.search(&key) {
                Ok(index) if random.below(3) == 0 => {
                    page.remove(index);
                    model.remove(&key);
                }
                Ok(index) if page.fits_replacement(index, payload.len()) => {
                    page.replace(index, &payload);
                    model.insert(key, payload);
                }
                Err(index) if page.fits(&key, payload.len()) => {
                    page.insert(index, &key, &payload);
                    model.insert(key, payload);
                }
                _ => {}
            }
        }
        page.verify().expect("a valid page");
        let got = (0..page.len()).map(|index| (page.key(index), page.payload(index).to_vec()));
        assert!(got.eq(model), "page and map differ");
    }
}

#[test]
fn images_decode_to_the_same_page() {
    let mut random = Random(2);
    for _ in 0..200 {
        let mut page = key_set_page(&mut random);
        page.set_identity(self_address(2, 77), 9);
        let image = page.encode(SALT);
        assert_eq!(image.len(), usize::from(page.blocks()) * BLOCK_BYTES);
        let decoded = Page::decode(&image, &expectation(&page)).expect("own image");
        decoded.verify().expect("a valid page");
        assert_eq!(keys(&decoded), keys(&page));
        assert_eq!((decoded.low(), decoded.high()), (page.low(), page.high()));
        assert_eq!(decoded.encode(SALT), image);
    }
}

#[test]
fn another_place_time_or_directory_is_refused() {
    let mut page = key_set_page(&mut Random(3));
    page.set_identity(self_address(2, 77), 9);
    let image = page.encode(SALT);
    let right = expectation(&page);
    let decode = |change: fn(&mut Expectation)| {
        let mut expected = right;
        change(&mut expected);
        Page::decode(&image, &expected).map(|_| ())
    };
    assert_eq!(decode(|_| ()), Ok(()));
    assert!(matches!(
        decode(|e| e.salt += 1),
        Err(PageError::Checksum { .. })
    ));
    assert!(matches!(
        decode(|e| e.shard += 1),
        Err(PageError::Address { .. })
    ));
    assert!(matches!(
        decode(|e| e.reference.address += 1),
        Err(PageError::Address { .. })
    ));
    assert!(matches!(
        decode(|e| e.reference.generation += 1),
        Err(PageError::Generation { .. })
    ));
    assert!(matches!(
        decode(|e| e.reference.blocks = 9),
        Err(PageError::Length { .. })
    ));
    assert!(matches!(
        decode(|e| e.reference.blocks = 0),
        Err(PageError::Length { .. })
    ));
}

/// Garbage with a right checksum, as a salted writer's bug could leave: never a panic, and what is
/// accepted is a valid page.
#[test]
fn damaged_bytes_never_panic() {
    let mut random = Random(4);
    let mut inner = Page::new(PageKind::Inner, 1, b"", None);
    let mut leaf = Page::new(PageKind::Leaf, 0, b"", None);
    for index in 0..100u64 {
        let key = format!("key-{index:04}").into_bytes();
        let child = PageRef {
            address: index,
            blocks: 3,
            generation: 5,
        };
        let mut payload = Swip::Disk(child).encode().to_vec();
        payload.extend_from_slice(&7u32.to_le_bytes());
        inner.set_child(0, Swip::Disk(child));
        inner.insert(index as usize, &key, &payload);
        leaf.insert(index as usize, &key, &crate::mvcc::versions::sample(index));
    }
    let mut overflow = Page::new(PageKind::Overflow, 0, b"key", None);
    for index in 0..50 {
        overflow.append_run(&crate::mvcc::versions::sample(index));
    }
    let set = key_set_page(&mut random);
    for mut page in [inner, leaf, overflow, set] {
        page.set_identity(self_address(2, 77), 9);
        let image = page.encode(SALT);
        let expected = expectation(&page);
        Page::decode(&image, &expected).expect("undamaged");
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut damaged = image.clone();
            for _ in 0..=random.below(3) {
                let at = match random.below(3) {
                    0 => 8 + random.below(56),
                    1 => 64 + random.below(200),
                    _ => 8 + random.below(image.len() as u64 - 8),
                };
                damaged[at as usize] = match random.below(3) {
                    0 => random.below(256) as u8,
                    1 => 0xff,
                    _ => damaged[at as usize] ^ 1,
                };
            }
            let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&damaged[8..], SALT);
            damaged[..8].copy_from_slice(&sum.to_le_bytes());
            if let Ok(decoded) = Page::decode(&damaged, &expected) {
                decoded.verify().expect("an accepted page is valid");
                accepted += 1;
            }
        }
        assert!(accepted < 20_000, "damage is noticed");
    }
    for len in [0, 1, 63, 4095, 4096, 16384, 20000] {
        let page = key_set_page(&mut random);
        assert!(Page::decode(&vec![0xa5; len], &expectation(&page)).is_err());
    }
}
