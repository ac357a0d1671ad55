package main

import (
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key, value)}}
}

func rangeOp(request *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: request}}
}

func getOp(key, end string) *pb.RequestOp { return rangeOp(get(key, end)) }

func delOp(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del(key, end)}}
}

func txnOp(txn *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}
}

func then(operations ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: operations} }

func otherwise(operations ...*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{never}, Failure: operations}
}

// never is a comparison that never holds.
var never = &pb.Compare{Key: []byte("never"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER}

var txnDifferential = []differentialScenario{
	{"compares of all targets and results", comparesOfAll},
	{"compares of odd content", oddCompares},
	{"what transactions answer", txnAnswers},
	{"nested transactions", nestedTxns},
	{"keys written twice", duplicateKeys},
	{"sizes of transactions", txnSizes},
	{"errors in transactions", txnErrors},
	{"header of transactions", txnHeaders},
}

func comparesOfAll(d *differential) {
	first, last := sample(d)
	numbers := []int64{math.MinInt64, -1, 0, 1, 2, 3, 77, first, first + 1, first + 3, last - 1, last, math.MaxInt64}
	check := func(compare *pb.Compare) {
		d.call(&pb.TxnRequest{Compare: []*pb.Compare{compare}})
	}
	for result := pb.Compare_CompareResult(0); result <= 3; result++ {
		for _, bounds := range [][2]string{{"a", ""}, {"c", ""}, {"missing", ""}, {"a", "d"}, {"a", "\x00"}, {"\x00", "\x00"}, {"x", "z"}, {"c", "a"}} {
			key, end := []byte(bounds[0]), []byte(bounds[1])
			for _, number := range numbers {
				check(&pb.Compare{Key: key, RangeEnd: end, Result: result, Target: pb.Compare_VERSION,
					TargetUnion: &pb.Compare_Version{Version: number}})
				check(&pb.Compare{Key: key, RangeEnd: end, Result: result, Target: pb.Compare_CREATE,
					TargetUnion: &pb.Compare_CreateRevision{CreateRevision: number}})
				check(&pb.Compare{Key: key, RangeEnd: end, Result: result, Target: pb.Compare_MOD,
					TargetUnion: &pb.Compare_ModRevision{ModRevision: number}})
				check(&pb.Compare{Key: key, RangeEnd: end, Result: result, Target: pb.Compare_LEASE,
					TargetUnion: &pb.Compare_Lease{Lease: number}})
			}
			for _, value := range []string{"", "a", "aa", "ab", "second", "zz"} {
				check(&pb.Compare{Key: key, RangeEnd: end, Result: result, Target: pb.Compare_VALUE,
					TargetUnion: &pb.Compare_Value{Value: []byte(value)}})
			}
		}
	}
}

func oddCompares(d *differential) {
	sample(d)
	check := func(compare *pb.Compare) {
		d.call(&pb.TxnRequest{Compare: []*pb.Compare{compare}, Success: []*pb.RequestOp{putOp("yes", "")},
			Failure: []*pb.RequestOp{putOp("no", "")}})
	}
	for target := pb.Compare_CompareTarget(0); target <= 4; target++ {
		for result := pb.Compare_CompareResult(0); result <= 3; result++ {
			for _, key := range []string{"a", "missing"} {
				check(&pb.Compare{Key: []byte(key), Target: target, Result: result})
				check(&pb.Compare{Key: []byte(key), Target: target, Result: result, TargetUnion: &pb.Compare_Version{Version: 2}})
				check(&pb.Compare{Key: []byte(key), Target: target, Result: result, TargetUnion: &pb.Compare_Value{Value: []byte("aa")}})
				check(&pb.Compare{Key: []byte(key), Target: target, Result: result, TargetUnion: &pb.Compare_Lease{Lease: 77}})
			}
		}
	}
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{{}}})
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{{RangeEnd: zero}}})
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{never, {}}})
}

func txnAnswers(d *differential) {
	first, _ := sample(d)
	d.call(&pb.TxnRequest{})
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{never}})
	d.call(then(getOp("a", "")))
	d.call(then(getOp("a", "z"), getOp("missing", "")))
	d.call(otherwise(getOp("a", "z")))
	d.call(then(putOp("a", "1"), getOp("a", ""), putOp("b", "2"), getOp("a", "z")))
	d.call(then(getOp("a", ""), putOp("a", "2"), getOp("a", ""), delOp("b", "d"), getOp("a", "z")))
	d.call(then(delOp("missing", ""), getOp("a", "")))
	d.call(then(delOp("missing", ""), putOp("x", "y"), delOp("missing", "")))
	d.call(then(delOp("x", ""), delOp("x", "")))
	d.call(then(delOp("a", ""), delOp("a", "z"), getOp("a", "z")))
	sample(d)
	previous := del("a", "c")
	previous.PrevKv = true
	withPrevious := put("d", "new")
	withPrevious.PrevKv = true
	d.call(then(
		&pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: previous}},
		&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: withPrevious}},
		getOp("a", "z"),
	))
	// Reads of every kind behind writes.
	for flags := range 32 {
		request := get("a", "z")
		request.KeysOnly, request.CountOnly, request.Serializable = flags&1 != 0, flags&2 != 0, flags&4 != 0
		if flags&8 != 0 {
			request.Limit = 2
		}
		if flags&16 != 0 {
			request.SortOrder, request.SortTarget = pb.RangeRequest_DESCEND, pb.RangeRequest_MOD
		}
		d.call(then(rangeOp(request), putOp("bb", fmt.Sprint(flags)), rangeOp(request), delOp("c", ""), rangeOp(request)))
		d.call(then(rangeOp(request), rangeOp(request)))
		old := get("a", "z")
		old.Revision = first + 4
		old.Limit = request.Limit
		d.call(then(putOp("bb", fmt.Sprint(flags)), rangeOp(old)))
		old.Revision = d.revision()
		d.call(then(putOp("bb", fmt.Sprint(flags)), rangeOp(old)))
		old.Revision++
		d.call(then(putOp("bb", fmt.Sprint(flags)), rangeOp(old)))
	}
	d.call(&pb.LeaseGrantRequest{ID: 88, TTL: 600})
	for _, ignored := range []*pb.PutRequest{
		{Key: []byte("d"), IgnoreValue: true, Lease: 88}, {Key: []byte("d"), IgnoreLease: true, Value: []byte("w")},
		{Key: []byte("d"), IgnoreLease: true, IgnoreValue: true, PrevKv: true},
		{Key: []byte("missing"), IgnoreValue: true},
	} {
		operation := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: ignored}}
		d.call(then(operation, getOp("d", "")))
		d.call(then(putOp("d1", "x"), operation, getOp("d", "")))
		d.call(otherwise(operation, getOp("d", "")))
	}
	d.call(get("\x00", "\x00"))
}

func nestedTxns(d *differential) {
	sample(d)
	isVersion := func(key string, version int64) *pb.Compare {
		return &pb.Compare{Key: []byte(key), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_Version{Version: version}}
	}
	d.call(then(txnOp(then(getOp("a", "")))))
	d.call(then(txnOp(&pb.TxnRequest{})))
	d.call(then(txnOp(then(putOp("n", "1"))), getOp("n", "")))
	d.call(then(putOp("m", "1"), txnOp(then(getOp("m", ""))), txnOp(otherwise(putOp("m2", "1"))), getOp("m", "n")))
	// The guards of all levels see the state before the transaction.
	d.call(then(putOp("g", "1"), txnOp(&pb.TxnRequest{
		Compare: []*pb.Compare{isVersion("g", 0)},
		Success: []*pb.RequestOp{putOp("guard", "before")},
		Failure: []*pb.RequestOp{putOp("guard", "after")},
	}), getOp("guard", "")))
	d.call(&pb.TxnRequest{
		Compare: []*pb.Compare{isVersion("g", 0)},
		Success: []*pb.RequestOp{putOp("no", "")},
		Failure: []*pb.RequestOp{
			txnOp(&pb.TxnRequest{Compare: []*pb.Compare{isVersion("g", 1)}, Success: []*pb.RequestOp{
				delOp("g", ""),
				txnOp(&pb.TxnRequest{Compare: []*pb.Compare{isVersion("g", 1)}, Success: []*pb.RequestOp{putOp("deep", "1"), getOp("g", "")}}),
			}}),
			txnOp(&pb.TxnRequest{Compare: []*pb.Compare{isVersion("g", 0)}, Success: []*pb.RequestOp{putOp("x1", "1")},
				Failure: []*pb.RequestOp{getOp("deep", ""), txnOp(then(delOp("deep", ""))), getOp("deep", "")}}),
			getOp("a", "z"),
		},
	})
	deep := then(putOp("bottom", "1"))
	for range 6 {
		deep = then(txnOp(deep))
		d.call(deep)
	}
	d.call(then(txnOp(otherwise(getOp("a", ""), txnOp(otherwise(getOp("b", "")))))))
	d.call(then(txnOp(then(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Lease: oldLease}}})), putOp("zz", "")))
	d.call(otherwise(putOp("zz", ""), txnOp(then(rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40})))))
	// What is not executed is not checked.
	d.call(then(txnOp(&pb.TxnRequest{Compare: []*pb.Compare{never}, Success: []*pb.RequestOp{
		rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40})}})))
	d.call(get("\x00", "\x00"))
}

func duplicateKeys(d *differential) {
	sample(d)
	d.call(then(putOp("a", "1"), putOp("a", "2")))
	d.call(then(putOp("a", "1"), putOp("b", "2")))
	d.call(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", "1")}, Failure: []*pb.RequestOp{putOp("a", "1")}})
	d.call(otherwise(putOp("a", "1"), putOp("a", "1")))
	d.call(then(putOp("a", "1"), delOp("a", "")))
	d.call(then(delOp("a", ""), putOp("a", "1")))
	d.call(then(delOp("a", "c"), putOp("b", "1")))
	d.call(then(delOp("a", "c"), putOp("c", "1")))
	d.call(then(delOp("a", "c"), putOp("a", "1")))
	d.call(then(delOp("a", "\x00"), putOp("b", "1")))
	d.call(then(delOp("\x00", "\x00"), putOp("b", "1")))
	d.call(then(delOp("c", "a"), putOp("b", "1")))
	d.call(then(delOp("c", "a"), putOp("c", "1")))
	d.call(then(delOp("b", "b"), putOp("b", "1")))
	d.call(then(delOp("a", "b"), delOp("b", "c"), putOp("b\x00", "1")))
	d.call(then(delOp("a", "b"), delOp("a", "b")))
	d.call(then(txnOp(then(putOp("a", "1"))), putOp("a", "2")))
	d.call(then(txnOp(then(putOp("a", "1"))), txnOp(then(putOp("a", "2")))))
	d.call(then(txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", "1")}, Failure: []*pb.RequestOp{putOp("a", "2")}})))
	d.call(then(txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", "1")}, Failure: []*pb.RequestOp{putOp("a", "2")}}), putOp("a", "3")))
	d.call(then(txnOp(then(putOp("a", "1"))), txnOp(otherwise(putOp("a", "2")))))
	d.call(then(txnOp(then(putOp("a", "1"))), delOp("a", "")))
	d.call(then(delOp("a", "b"), txnOp(then(putOp("a", "1")))))
	d.call(then(txnOp(then(delOp("a", "c"))), putOp("b", "1")))
	d.call(then(txnOp(then(delOp("a", "c"))), txnOp(then(putOp("b", "1")))))
	d.call(then(txnOp(then(putOp("b", "1"))), txnOp(then(delOp("a", "c")))))
	d.call(then(txnOp(otherwise(delOp("a", "c"))), putOp("b", "1")))
	d.call(then(txnOp(then(delOp("a", "c"))), delOp("b", "d"), putOp("e", "1")))
	d.call(then(txnOp(then(txnOp(then(putOp("a", "1"))))), putOp("a", "2")))
	d.call(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", "1"), putOp("a", "2")}, Failure: []*pb.RequestOp{putOp("", "")}})
	d.call(get("\x00", "\x00"))
}

func txnSizes(d *differential) {
	many := func(count int) []*pb.RequestOp {
		operations := make([]*pb.RequestOp, count)
		for i := range operations {
			operations[i] = putOp(fmt.Sprintf("many%03d", i), "x")
		}
		return operations
	}
	guards := func(count int) []*pb.Compare {
		compares := make([]*pb.Compare, count)
		for i := range compares {
			compares[i] = never
		}
		return compares
	}
	for _, count := range []int{127, 128, 129, 200} {
		d.call(&pb.TxnRequest{Success: many(count)})
		d.call(&pb.TxnRequest{Failure: many(count)})
		d.call(&pb.TxnRequest{Compare: guards(count)})
		d.call(&pb.TxnRequest{Compare: guards(count), Success: []*pb.RequestOp{putOp("", "")}})
	}
	for _, count := range []int{126, 127, 128} {
		d.call(then(txnOp(&pb.TxnRequest{Success: many(count)})))
		d.call(then(txnOp(&pb.TxnRequest{Compare: guards(count)})))
		d.call(then(txnOp(then(txnOp(&pb.TxnRequest{Success: many(count - 1)})))))
	}
	d.call(&pb.TxnRequest{Success: append(many(100), txnOp(&pb.TxnRequest{Failure: many(27)}))})
	d.call(&pb.TxnRequest{Success: append(many(100), txnOp(&pb.TxnRequest{Failure: many(28)}))})
	d.call(&pb.TxnRequest{Failure: many(100), Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Compare: guards(29)})}})
}

func txnErrors(d *differential) {
	sample(d)
	bad := []*pb.RequestOp{
		{}, putOp("", ""), getOp("", ""), delOp("", ""), delOp("", "\x00"),
		rangeOp(&pb.RangeRequest{Key: []byte("a"), SortOrder: 7}),
		rangeOp(&pb.RangeRequest{Key: []byte("a"), SortTarget: 7}),
		rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40}),
		rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: -1}),
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Value: []byte("v"), IgnoreValue: true}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreLease: true}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("missing"), IgnoreLease: true}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("missing"), IgnoreValue: true}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a"), Lease: oldLease}}},
		txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{{}}}),
		txnOp(&pb.TxnRequest{Compare: []*pb.Compare{{}}}),
	}
	for _, operation := range bad {
		d.call(then(operation))
		d.call(otherwise(operation))
		d.call(&pb.TxnRequest{Failure: []*pb.RequestOp{operation}})
		d.call(then(putOp("written", "1"), operation))
		d.call(then(operation, putOp("written", "1")))
		d.call(then(getOp("a", ""), operation))
		d.call(then(txnOp(then(operation))))
	}
	for i, first := range bad {
		for _, second := range bad[i+1:] {
			d.call(then(first, second))
		}
	}
	// A key that this very transaction puts is not there when it is checked.
	d.call(then(putOp("fresh", "1"), txnOp(then(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte("fresh2"), IgnoreValue: true}}}))))
	d.call(get("\x00", "\x00"))
}

func txnHeaders(d *differential) {
	d.call(then(getOp("a", "")))
	d.call(then(putOp("a", "")))
	d.call(then(getOp("a", ""), delOp("b", ""), putOp("a", ""), getOp("a", ""), delOp("a\x00", "z"), getOp("b", "")))
	d.call(then(delOp("a", ""), getOp("a", ""), delOp("a", "")))
	d.call(then(txnOp(then(getOp("a", ""), txnOp(then(putOp("c", ""))))), getOp("a", ""), putOp("d", "")))
	d.call(otherwise(txnOp(then(delOp("none", ""))), getOp("a", "")))
}
