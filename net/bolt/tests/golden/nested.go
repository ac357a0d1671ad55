// Writes the database files of this folder that no etcd writes: buckets inside buckets, a written free list,
// other page sizes. The module of the pinned etcd has the bbolt that etcd uses:
//
//	cd bench/etcd && go run ../../net/bolt/tests/golden/nested.go ../../net/bolt/tests/golden
package main

import (
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fill puts `count` keys whose values are `bytes` long.
func fill(b *bolt.Bucket, count, bytes int) {
	for i := 0; i < count; i++ {
		value := make([]byte, bytes)
		for j := range value {
			value[j] = byte(i)
		}
		must(b.Put([]byte(fmt.Sprintf("key-%05d", i)), value))
	}
}

func write(path string, pageSize int, noFreelist bool, share int) {
	_ = os.Remove(path)
	db, err := bolt.Open(path, 0o644, &bolt.Options{PageSize: pageSize, NoFreelistSync: noFreelist})
	must(err)
	db.AllocSize = pageSize
	must(db.Update(func(tx *bolt.Tx) error {
		outer, err := tx.CreateBucket([]byte("outer"))
		must(err)
		fill(outer, 3, 10)
		inner, err := outer.CreateBucket([]byte("inner"))
		must(err)
		fill(inner, 60/share, 20)
		small, err := inner.CreateBucket([]byte("small"))
		must(err)
		fill(small, 2, 5)
		many, err := tx.CreateBucket([]byte("many"))
		must(err)
		fill(many, 120/share, 20)
		_, err = tx.CreateBucket([]byte("nothing"))
		must(err)
		return many.Put([]byte("long"), make([]byte, 3*pageSize))
	}))
	// Free pages in the middle.
	must(db.Update(func(tx *bolt.Tx) error {
		for i := 40 / share; i < 100/share; i++ {
			must(tx.Bucket([]byte("many")).Delete([]byte(fmt.Sprintf("key-%05d", i))))
		}
		return nil
	}))
	must(db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("outer")).Put([]byte("key-00000"), nil) }))
	must(db.Close())
}

func main() {
	write(filepath.Join(os.Args[1], "nested-1024.db"), 1024, false, 1)
	write(filepath.Join(os.Args[1], "nested-2048.db"), 2048, true, 1)
	// For the fuzzer, whose inputs are short.
	write(filepath.Join(os.Args[1], "few-1024.db"), 1024, false, 4)
}
