package main

import (
	"fmt"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// randomKeys are few, so that requests meet; no more than a dozen, because etcd's sorting keeps the
// order of equal keys only up to there.
var randomKeys = []string{"a", "a\x00", "aa", "ab", "b", "ba", "c", "ca", "d", "\xff"}

// randomName begins the names of scenarios that are drawn at random.
const randomName = "random requests"

// randomScenarios are seeded mixes of requests; what fails can be repeated with its seed.
func randomScenarios(seed int64, operations int) []differentialScenario {
	scenarios := make([]differentialScenario, 0, 4)
	for round := range int64(4) {
		name := fmt.Sprintf("%s, seed %d.%d", randomName, seed, round)
		scenarios = append(scenarios, differentialScenario{name, func(d *differential) {
			mix := &randomMix{d: d, random: rand.New(rand.NewSource(seed<<8 + round))}
			mix.run(operations / 4)
		}})
	}
	return scenarios
}

// randomMix draws requests that depend on nothing but its seed and the revision.
type randomMix struct {
	d         *differential
	random    *rand.Rand
	revision  int64
	compacted int64
	watch     *watchPair
	// furthest is the highest revision that a watcher starts at.
	furthest int64
}

func (m *randomMix) run(operations int) {
	m.revision = m.d.revision()
	m.compacted = m.revision
	m.watch = m.d.watch()
	for range operations {
		if m.chance(40) {
			m.newWatch()
		}
		request := m.request()
		if _, ok := request.(*pb.CompactionRequest); ok {
			// etcd serves some watchers late. A compaction would overtake them there and not here.
			m.arrive()
			m.watch.settle()
			m.revision = m.d.revision()
		}
		m.call(request)
	}
	m.arrive()
	m.watch.drain("events of all watches")
	m.watch.cancel()
}

func (m *randomMix) call(request proto.Message) {
	answer := m.d.call(request)[reference]
	if shown, ok := answer.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		m.revision = max(m.revision, shown.GetHeader().GetRevision())
	}
}

// arrive goes on to where the last watcher begins: before that it has no progress to show.
func (m *randomMix) arrive() {
	for m.revision < m.furthest {
		m.call(put("pad", ""))
	}
}

func (m *randomMix) chance(one int) bool { return m.random.Intn(one) == 0 }

func (m *randomMix) key() []byte { return []byte(randomKeys[m.random.Intn(len(randomKeys))]) }

func (m *randomMix) bounds() (key, end []byte) {
	switch m.random.Intn(6) {
	case 0:
		return zero, zero
	case 1:
		return m.key(), zero
	case 2, 3:
		return m.key(), m.key()
	default:
		return m.key(), nil
	}
}

// aRevision is mostly one that can be read.
func (m *randomMix) aRevision() int64 {
	switch m.random.Intn(10) {
	case 0:
		return m.revision + 1 + m.random.Int63n(3)
	case 1:
		return m.compacted - 1
	case 2:
		return -m.random.Int63n(3)
	default:
		return m.compacted + m.random.Int63n(m.revision-m.compacted+1)
	}
}

func (m *randomMix) lease() int64 {
	if m.chance(3) {
		return 1 + m.random.Int63n(4)
	}
	return 0
}

func (m *randomMix) value() []byte {
	if m.chance(6) {
		return nil
	}
	return fmt.Appendf(nil, "v%d", m.random.Intn(20))
}

func (m *randomMix) aRange() *pb.RangeRequest {
	request := &pb.RangeRequest{}
	request.Key, request.RangeEnd = m.bounds()
	if m.chance(3) {
		request.Revision = m.aRevision()
	}
	if m.chance(2) {
		request.Limit = m.random.Int63n(6)
	}
	if m.chance(2) {
		request.SortOrder = pb.RangeRequest_SortOrder(m.random.Intn(3))
		request.SortTarget = pb.RangeRequest_SortTarget(m.random.Intn(5))
	}
	request.Serializable, request.KeysOnly, request.CountOnly = m.chance(3), m.chance(4), m.chance(6)
	for _, bound := range []*int64{&request.MinModRevision, &request.MaxModRevision,
		&request.MinCreateRevision, &request.MaxCreateRevision} {
		if m.chance(8) {
			*bound = m.aRevision()
		}
	}
	return request
}

// aPut never keeps a value inside a transaction: etcd crashes when the transaction has deleted it.
func (m *randomMix) aPut(alone bool) *pb.PutRequest {
	request := &pb.PutRequest{Key: m.key(), Value: m.value(), Lease: m.lease(), PrevKv: m.chance(3)}
	if !alone {
		return request
	}
	if m.chance(8) {
		request.IgnoreValue, request.Value = true, nil
	}
	if m.chance(8) {
		request.IgnoreLease, request.Lease = true, 0
	}
	return request
}

func (m *randomMix) aDelete() *pb.DeleteRangeRequest {
	request := &pb.DeleteRangeRequest{PrevKv: m.chance(2)}
	request.Key, request.RangeEnd = m.bounds()
	if m.chance(2) {
		request.RangeEnd = nil
	}
	return request
}

func (m *randomMix) aCompare() *pb.Compare {
	compare := &pb.Compare{Result: pb.Compare_CompareResult(m.random.Intn(4)), Target: pb.Compare_CompareTarget(m.random.Intn(5))}
	compare.Key, compare.RangeEnd = m.bounds()
	switch m.random.Intn(10) {
	case 0:
	case 1, 2:
		compare.TargetUnion, compare.Target = &pb.Compare_Version{Version: m.random.Int63n(4)}, pb.Compare_VERSION
	case 3, 4:
		compare.TargetUnion, compare.Target = &pb.Compare_CreateRevision{CreateRevision: m.aRevision()}, pb.Compare_CREATE
	case 5, 6:
		compare.TargetUnion, compare.Target = &pb.Compare_ModRevision{ModRevision: m.aRevision()}, pb.Compare_MOD
	case 7, 8:
		compare.TargetUnion, compare.Target = &pb.Compare_Value{Value: m.value()}, pb.Compare_VALUE
	default:
		compare.TargetUnion, compare.Target = &pb.Compare_Lease{Lease: m.lease()}, pb.Compare_LEASE
	}
	return compare
}

func (m *randomMix) aTxn(depth int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for range m.random.Intn(3) {
		txn.Compare = append(txn.Compare, m.aCompare())
	}
	branch := func() (operations []*pb.RequestOp) {
		for range m.random.Intn(4) {
			switch kind := m.random.Intn(10); {
			case kind < 4:
				operations = append(operations, rangeOp(m.aRange()))
			case kind < 7:
				operations = append(operations, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: m.aPut(false)}})
			case kind < 9 || depth == 0:
				operations = append(operations, &pb.RequestOp{
					Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: m.aDelete()}})
			default:
				operations = append(operations, txnOp(m.aTxn(depth-1)))
			}
		}
		return operations
	}
	txn.Success, txn.Failure = branch(), branch()
	return txn
}

func (m *randomMix) request() proto.Message {
	switch kind := m.random.Intn(100); {
	case kind < 30:
		return m.aPut(true)
	case kind < 40:
		return m.aDelete()
	case kind < 65:
		return m.aRange()
	case kind < 90:
		return m.aTxn(2)
	case kind < 93:
		return &pb.LeaseGrantRequest{ID: 1 + m.random.Int63n(4), TTL: 6000}
	case kind < 95:
		return &pb.LeaseRevokeRequest{ID: 1 + m.random.Int63n(4)}
	case kind < 99:
		return &pb.LeaseTimeToLiveRequest{ID: 1 + m.random.Int63n(5)}
	default:
		revision := m.aRevision()
		if revision > m.compacted && revision <= m.revision {
			m.compacted = revision
		}
		return &pb.CompactionRequest{Revision: revision, Physical: m.chance(2)}
	}
}

// newWatch adds a watcher that starts above the last compaction.
func (m *randomMix) newWatch() {
	request := &pb.WatchCreateRequest{PrevKv: false, Fragment: m.chance(3)}
	request.Key, request.RangeEnd = m.bounds()
	if m.chance(3) {
		request.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_FilterType(m.random.Intn(2))}
	}
	if m.chance(3) {
		request.StartRevision = m.revision + m.random.Int63n(20)
		m.furthest = max(m.furthest, request.StartRevision)
	}
	m.watch.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	// Both servers must have created it before the next change.
	m.watch.awaitCreation()
}
