package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// zero is the key and the range end that stand for the lowest and for no bound.
var zero = []byte{0}

// oldLease is a lease that no scenario grants.
const oldLease = 987654321

func readAll(reader io.Reader) string {
	content, err := io.ReadAll(reader)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	return string(content)
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func get(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func del(key, end string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

var kvDifferential = []differentialScenario{
	{"revisions before any compaction", revisionsUncompacted},
	{"range options in all combinations", rangeCombinations},
	{"range ends and keys", rangeForms},
	{"range limits", rangeLimits},
	{"put options", putOptions},
	{"delete ranges", deleteRanges},
	{"compactions", compactions},
	{"streamed ranges", rangeStreams},
	{"errors of kv requests", kvErrors},
}

// sample fills a store with keys of differing versions, revisions, values and leases.
func sample(d *differential) (first, last int64) {
	d.call(&pb.LeaseGrantRequest{ID: 77, TTL: 6000})
	first = d.revision()
	for _, key := range []string{"d", "b", "a", "c", "f", "e"} {
		d.call(put(key, "value of "+key))
	}
	d.call(&pb.PutRequest{Key: []byte("b"), Value: []byte("zz"), Lease: 77})
	d.call(put("b", "second"))
	d.call(&pb.PutRequest{Key: []byte("c"), Value: []byte("aa"), Lease: 77})
	d.call(put("a", "aa"))
	d.call(del("e", ""))
	d.call(put("e", "again"))
	d.call(put("e", ""))
	return first, d.revision()
}

func revisionsUncompacted(d *differential) {
	first, last := sample(d)
	for _, revision := range []int64{math.MinInt64, -2, -1, 0, 1, 2, first, first + 1, first + 3, last - 1, last, last + 1, math.MaxInt64} {
		for _, end := range []string{"", "c", "\x00"} {
			request := get("a", end)
			request.Revision = revision
			d.call(request)
			request.CountOnly = true
			d.call(request)
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(request)}})
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("x", "y"), rangeOp(request)}})
		}
	}
}

func rangeCombinations(d *differential) {
	first, last := sample(d)
	for order := pb.RangeRequest_SortOrder(0); order <= 2; order++ {
		for target := pb.RangeRequest_SortTarget(0); target <= 4; target++ {
			for _, limit := range []int64{0, 1, 3, 6, 7} {
				for flags := range 16 {
					request := get("a", "z")
					request.SortOrder, request.SortTarget, request.Limit = order, target, limit
					request.KeysOnly = flags&1 != 0
					request.CountOnly = flags&2 != 0
					request.Serializable = flags&4 != 0
					if flags&8 != 0 {
						request.MinModRevision = last - 4
					}
					d.call(request)
				}
			}
		}
	}
	for _, bounds := range [][4]int64{
		{first + 2, 0, 0, 0}, {0, first + 5, 0, 0}, {0, 0, first + 2, 0}, {0, 0, 0, first + 3},
		{first + 2, last - 2, first + 1, first + 4}, {-1, 0, 0, 0}, {0, -1, 0, 0}, {last + 10, 0, 0, 0},
		{0, 0, -1, 0}, {0, 0, 0, -1},
	} {
		for _, limit := range []int64{0, 1, 2, 6} {
			for _, end := range []string{"", "z", "\x00"} {
				for flags := range 4 {
					request := get("b", end)
					request.MinModRevision, request.MaxModRevision = bounds[0], bounds[1]
					request.MinCreateRevision, request.MaxCreateRevision = bounds[2], bounds[3]
					request.Limit, request.KeysOnly, request.CountOnly = limit, flags&1 != 0, flags&2 != 0
					d.call(request)
				}
			}
		}
	}
	// One key with every order and target.
	for order := pb.RangeRequest_SortOrder(0); order <= 2; order++ {
		for target := pb.RangeRequest_SortTarget(0); target <= 4; target++ {
			for _, keysOnly := range []bool{false, true} {
				request := get("c", "")
				request.SortOrder, request.SortTarget, request.KeysOnly = order, target, keysOnly
				d.call(request)
				d.call(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(request)}})
				d.call(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("x", "y"), rangeOp(request)}})
			}
		}
	}
	// Old revisions keep what was there, also what was dropped by sorting or by keys alone.
	for revision := first; revision <= last; revision++ {
		for flags := range 4 {
			request := get("a", "z")
			request.Revision, request.KeysOnly, request.CountOnly = revision, flags&1 != 0, flags&2 != 0
			d.call(request)
			request.Limit = 2
			d.call(request)
			request.SortOrder, request.SortTarget = pb.RangeRequest_DESCEND, pb.RangeRequest_MOD
			d.call(request)
		}
	}
}

func rangeForms(d *differential) {
	sample(d)
	d.call(put("\x00", "zero"))
	d.call(put("\x00\x00", "two zeros"))
	d.call(put("b\x00", "behind b"))
	d.call(put("\xff", "last"))
	d.call(put("\xff\xff", "really last"))
	bounds := []string{"", "\x00", "\x00\x00", "\x01", "a", "b", "b\x00", "c", "\xff", "\xff\xff", "\xff\xff\x00"}
	for _, key := range bounds {
		for _, end := range bounds {
			d.call(get(key, end))
			count := get(key, end)
			count.CountOnly = true
			d.call(count)
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(get(key, end))}})
		}
	}
	for _, key := range bounds {
		for _, end := range bounds {
			d.call(&pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte(key), RangeEnd: []byte(end), Target: pb.Compare_VERSION,
					Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: 0}}},
				Success: []*pb.RequestOp{rangeOp(get("a", ""))},
			})
		}
	}
}

func rangeLimits(d *differential) {
	for i := range 40 {
		d.call(put(fmt.Sprintf("k%02d", (i*17)%40), fmt.Sprint((i*29)%40)))
	}
	for _, limit := range []int64{math.MinInt64, -1, 0, 1, 2, 39, 40, 41, math.MaxInt64 - 1, math.MaxInt64} {
		for order := pb.RangeRequest_SortOrder(0); order <= 2; order++ {
			for _, target := range []pb.RangeRequest_SortTarget{pb.RangeRequest_KEY, pb.RangeRequest_MOD, pb.RangeRequest_VALUE} {
				request := get("k", "l")
				request.Limit, request.SortOrder, request.SortTarget = limit, order, target
				d.call(request)
				request.MinModRevision = 1
				d.call(request)
				request.CountOnly = true
				d.call(request)
			}
		}
	}
	single := get("k00", "")
	for _, limit := range []int64{-1, 1, 2} {
		single.Limit = limit
		d.call(single)
	}
}

func putOptions(d *differential) {
	d.call(&pb.LeaseGrantRequest{ID: 5, TTL: 6000})
	d.call(&pb.LeaseGrantRequest{ID: 6, TTL: 6000})
	for _, exists := range []bool{false, true} {
		for flags := range 8 {
			for _, value := range []string{"", "v"} {
				for _, lease := range []int64{0, 5, 6, oldLease} {
					d.call(del("key", ""))
					if exists {
						d.call(&pb.PutRequest{Key: []byte("key"), Value: []byte("before"), Lease: 5})
					}
					request := &pb.PutRequest{Key: []byte("key"), Value: []byte(value), Lease: lease,
						PrevKv: flags&1 != 0, IgnoreValue: flags&2 != 0, IgnoreLease: flags&4 != 0}
					d.call(request)
					d.call(get("key", ""))
					d.call(&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: request}}}})
					d.call(get("key", ""))
				}
			}
		}
	}
	d.call(&pb.LeaseTimeToLiveRequest{ID: 5, Keys: true})
	d.call(&pb.LeaseTimeToLiveRequest{ID: 6, Keys: true})
}

func deleteRanges(d *differential) {
	bounds := []string{"", "\x00", "a", "b", "c", "c\x00", "z"}
	for _, key := range bounds {
		for _, end := range bounds {
			for _, previous := range []bool{false, true} {
				for _, name := range []string{"a", "b", "b", "c"} {
					d.call(put(name, "value"))
				}
				request := del(key, end)
				request.PrevKv = previous
				d.call(request)
				d.call(get("\x00", "\x00"))
				d.call(request)
			}
		}
	}
}

func compactions(d *differential) {
	first, last := sample(d)
	compactTo := func(revision int64, physical bool) {
		d.call(&pb.CompactionRequest{Revision: revision, Physical: physical})
	}
	compactTo(last+1, false)
	compactTo(last+1, true)
	compactTo(math.MaxInt64, false)
	compactTo(0, false)
	compactTo(-1, false)
	compactTo(math.MinInt64, false)
	reads := func() {
		for revision := first - 1; revision <= last+1; revision++ {
			request := get("a", "z")
			request.Revision = revision
			d.call(request)
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(request)}})
			d.call(&pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(request)}})
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("q", "r"), rangeOp(request)}})
			request.Serializable = true
			request.CountOnly = true
			d.call(request)
		}
		for _, revision := range []int64{math.MinInt64, -2, -1} {
			request := get("a", "z")
			request.Revision = revision
			d.call(request)
			d.call(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(request)}})
		}
	}
	for _, revision := range []int64{first + 2, first + 2, first + 1, first + 5, last} {
		compactTo(revision, false)
		compactTo(revision, true)
		reads()
	}
	compactTo(0, true)
	compactTo(-1, true)
	last = d.revision()
	compactTo(last, true)
	compactTo(last, true)
	reads()
}

func rangeStreams(d *differential) {
	ask := func(request *pb.RangeRequest) {
		var texts [2]string
		d.each(func(side *side) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			stream, err := pb.NewKVClient(side.conn).RangeStream(ctx, request)
			if err != nil {
				texts[d.index(side)] = errorText(err)
				return
			}
			whole := &pb.RangeResponse{}
			for {
				part, err := stream.Recv()
				if err == io.EOF {
					break
				}
				if err != nil {
					texts[d.index(side)] = errorText(err)
					return
				}
				answer := part.RangeResponse
				if whole.Header != nil || (answer.Header == nil && (answer.More || answer.Count != 0)) {
					texts[d.index(side)] = "the end of a stream is not its last part"
					return
				}
				whole.Kvs = append(whole.Kvs, answer.Kvs...)
				whole.Header, whole.More, whole.Count = answer.Header, answer.More, answer.Count
			}
			texts[d.index(side)] = side.show(whole)
		})
		d.same("RangeStream "+compact(request), texts)
	}
	first, last := sample(d)
	for i := range 60 {
		d.call(put(fmt.Sprintf("k%02d", i), fmt.Sprint(i)))
	}
	for _, limit := range []int64{-1, 0, 1, 9, 10, 11, 29, 30, 31, 66, 67, math.MaxInt64} {
		for flags := range 8 {
			request := get("a", "z")
			request.Limit = limit
			request.KeysOnly, request.CountOnly, request.Serializable = flags&1 != 0, flags&2 != 0, flags&4 != 0
			ask(request)
		}
	}
	for _, end := range []string{"", "\x00", "a", "k30"} {
		ask(get("a", end))
		ask(get("", end))
		ask(get("missing", end))
	}
	for _, revision := range []int64{-1, 1, first, first + 4, last, last + 1, last + 1000} {
		request := get("a", "z")
		request.Revision = revision
		ask(request)
		request.Limit = 3
		ask(request)
	}
	for order := pb.RangeRequest_SortOrder(0); order <= 3; order++ {
		for target := pb.RangeRequest_SortTarget(0); target <= 5; target++ {
			// One key: etcd sorts the parts of a stream and then loses its place.
			ask(&pb.RangeRequest{Key: []byte("a"), SortOrder: order, SortTarget: target})
		}
	}
	ask(&pb.RangeRequest{Key: []byte("a"), MinModRevision: 1})
	ask(&pb.RangeRequest{Key: []byte("a"), MaxModRevision: 1})
	ask(&pb.RangeRequest{Key: []byte("a"), MinCreateRevision: 1})
	ask(&pb.RangeRequest{Key: []byte("a"), MaxCreateRevision: 1})
	ask(&pb.RangeRequest{Key: []byte("a"), MaxCreateRevision: 1, SortOrder: pb.RangeRequest_DESCEND})
	large := bytes.Repeat([]byte("x"), 100<<10)
	for i := range 40 {
		d.call(&pb.PutRequest{Key: fmt.Appendf(nil, "large%02d", i), Value: large})
	}
	ask(get("large", "largf"))
	d.call(&pb.CompactionRequest{Revision: last})
	ask(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Revision: last - 1})
	ask(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Revision: last})
}

func kvErrors(d *differential) {
	sample(d)
	d.call(&pb.RangeRequest{})
	d.call(&pb.RangeRequest{RangeEnd: zero})
	d.call(&pb.RangeRequest{Key: []byte("a"), SortOrder: 3})
	d.call(&pb.RangeRequest{Key: []byte("a"), SortOrder: -1})
	d.call(&pb.RangeRequest{Key: []byte("a"), SortTarget: 5})
	d.call(&pb.RangeRequest{Key: []byte("a"), SortTarget: -1})
	d.call(&pb.RangeRequest{SortTarget: 9, SortOrder: 9})
	d.call(&pb.PutRequest{})
	d.call(&pb.PutRequest{Value: []byte("v")})
	d.call(&pb.PutRequest{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true})
	d.call(&pb.PutRequest{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true, IgnoreLease: true, Lease: 1})
	d.call(&pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreValue: true, IgnoreLease: true})
	d.call(&pb.PutRequest{Key: []byte("a"), Lease: oldLease})
	d.call(&pb.PutRequest{Key: []byte("missing"), Lease: oldLease, IgnoreValue: true})
	d.call(&pb.PutRequest{Key: []byte("missing"), IgnoreValue: true})
	d.call(&pb.PutRequest{Key: []byte("missing"), IgnoreLease: true})
	d.call(&pb.DeleteRangeRequest{})
	d.call(&pb.DeleteRangeRequest{RangeEnd: zero})
	d.call(get("missing", ""))
	d.call(del("missing", ""))
	d.call(get("a", "z"))
}
