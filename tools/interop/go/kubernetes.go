package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var kubernetesScenarios = []scenario{
	{"boot: status, current revision, health", kubernetesBoot},
	{"list: pages pinned to the first revision", kubernetesList},
	{"create, update, delete and their conflicts", kubernetesWrites},
	{"compactor: its key, its watch, its compaction", kubernetesCompactor},
	{"watch: created first, events, bookmarks, cancel", kubernetesWatch},
	{"watch: several on one stream", kubernetesSharedStream},
	{"watch: progress is never ahead of events", kubernetesProgress},
	{"watch: below the compaction", kubernetesCompactedWatch},
	{"lease: expires events, spares renewed ones", kubernetesLease},
	{"errors: codes and texts", kubernetesErrors},
	{"stream: list in chunks", kubernetesRangeStream},
}

const registry = "/registry/"

func (r *run) kv() pb.KVClient { return pb.NewKVClient(r.client.ActiveConnection()) }

// rangeOf is a list as an API server sends it.
func (r *run) rangeOf(request *pb.RangeRequest) *pb.RangeResponse {
	answer, err := r.kv().Range(r.ctx, request)
	r.noError(err, "range %s", request.Key)
	return answer
}

func prefixEnd(prefix string) []byte { return []byte(clientv3.GetPrefixRangeEnd(prefix)) }

// write is the transaction behind create, update and delete.
func (r *run) write(key string, revision int64, success *pb.RequestOp, read bool) *pb.TxnResponse {
	request := &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Target:      pb.Compare_MOD,
			Key:         []byte(key),
			TargetUnion: &pb.Compare_ModRevision{ModRevision: revision},
		}},
		Success: []*pb.RequestOp{success},
	}
	if read {
		request.Failure = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: []byte(key)},
		}}}
	}
	answer, err := r.kv().Txn(r.ctx, request)
	r.noError(err, "txn on %s", key)
	return answer
}

func putOf(key, value string, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease},
	}}
}

func deleteOf(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)},
	}}
}

func (r *run) create(key, value string) int64 {
	answer := r.write(key, 0, putOf(key, value, 0), false)
	r.must(answer.Succeeded && answer.Responses[0].GetResponsePut() != nil, "create %s: %v", key, answer)
	return answer.Header.Revision
}

func kubernetesBoot(r *run) {
	answer, err := r.client.Status(r.ctx, r.client.Endpoints()[0])
	r.noError(err, "status")
	var major, minor, patch int
	_, err = fmt.Sscanf(answer.Version, "%d.%d.%d", &major, &minor, &patch)
	r.noError(err, "version %q", answer.Version)
	r.must(major == 3 && (minor > 5 || minor == 5 && patch >= 13), "version %s lacks progress requests", answer.Version)
	r.must(answer.DbSize > 0, "size of the store %d", answer.DbSize)
	// The current revision is read from a key that never exists.
	empty := r.rangeOf(&pb.RangeRequest{Key: []byte(registry + "nothing"), Limit: 1})
	r.must(empty.Header.Revision > 0 && empty.Count == 0 && len(empty.Kvs) == 0, "answer %v", empty)
	written := r.create(registry+"boot/"+strconv.FormatInt(time.Now().UnixNano(), 10), "x")
	empty = r.rangeOf(&pb.RangeRequest{Key: []byte(registry + "nothing"), Limit: 1})
	r.must(empty.Header.Revision >= written, "revision %d after a write at %d", empty.Header.Revision, written)
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	_, err = r.kv().Range(ctx, &pb.RangeRequest{Key: []byte(registry + "health")})
	r.noError(err, "health")
}

func kubernetesList(r *run) {
	prefix := registry + "pods/"
	r.deleteAll(prefix)
	const pods = 1234
	for index := range pods {
		r.create(fmt.Sprintf("%sns/pod-%05d", prefix, index), "x")
	}
	whole := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Limit: 10000})
	r.must(whole.Count == pods && len(whole.Kvs) == pods && !whole.More, "%d of %d keys", len(whole.Kvs), whole.Count)
	first := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Limit: 500})
	r.must(first.More && first.Count == pods && len(first.Kvs) == 500, "first page: %d of %d", len(first.Kvs), first.Count)
	pinned := first.Header.Revision
	// Changes behind the first page do not show in the others.
	gone := fmt.Sprintf("%sns/pod-%05d", prefix, 700)
	answer := r.write(gone, first.Kvs[0].ModRevision+700, deleteOf(gone), true)
	r.must(answer.Succeeded, "delete of %s: %v", gone, answer)
	r.create(prefix+"ns/pod-00700a", "x")
	seen, last := len(first.Kvs), first
	for last.More {
		key := append(append([]byte{}, last.Kvs[len(last.Kvs)-1].Key...), 0)
		last = r.rangeOf(&pb.RangeRequest{Key: key, RangeEnd: prefixEnd(prefix), Limit: 500, Revision: pinned})
		r.must(last.Count == int64(pods-seen), "count %d after %d keys", last.Count, seen)
		r.must(last.Header.Revision > pinned, "the header tells the store's revision: %d", last.Header.Revision)
		for _, kv := range last.Kvs {
			r.must(string(kv.Key) == fmt.Sprintf("%sns/pod-%05d", prefix, seen), "key %s at %d", kv.Key, seen)
			seen++
		}
	}
	r.must(seen == pods, "%d keys in pages", seen)
	count := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), CountOnly: true})
	r.must(count.Count == pods && len(count.Kvs) == 0, "count %v", count)
	unlimited := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Revision: pinned})
	r.must(unlimited.Count == pods && len(unlimited.Kvs) == pods, "without limit: %d", len(unlimited.Kvs))
	keys := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), KeysOnly: true})
	r.must(len(keys.Kvs) == pods && len(keys.Kvs[0].Value) == 0 && keys.Kvs[0].ModRevision > 0, "keys only")
	r.deleteAll(prefix)
}

func kubernetesWrites(r *run) {
	key := registry + "leases/kube-node-lease/node-1"
	r.deleteAll(key)
	created := r.create(key, "1")
	// A plain create has an empty failure list.
	again := r.write(key, 0, putOf(key, "again", 0), false)
	r.must(!again.Succeeded && len(again.Responses) == 0, "create of what exists: %v", again)
	r.must(again.Header.Revision >= created, "header of a failed create: %v", again.Header)
	updated := r.write(key, created, putOf(key, "2", 0), true)
	r.must(updated.Succeeded && updated.Header.Revision > created, "update: %v", updated)
	stale := r.write(key, created, putOf(key, "3", 0), true)
	r.must(!stale.Succeeded && len(stale.Responses) == 1, "stale update: %v", stale)
	kvs := stale.Responses[0].GetResponseRange().GetKvs()
	r.must(len(kvs) == 1 && string(kvs[0].Value) == "2" && kvs[0].ModRevision == updated.Header.Revision, "stale update read %v", kvs)
	r.must(kvs[0].CreateRevision == created && kvs[0].Version == 2, "revisions %v", kvs[0])
	refused := r.write(key, created, deleteOf(key), true)
	r.must(!refused.Succeeded && len(refused.Responses[0].GetResponseRange().GetKvs()) == 1, "stale delete: %v", refused)
	deleted := r.write(key, updated.Header.Revision, deleteOf(key), true)
	r.must(deleted.Succeeded && deleted.Responses[0].GetResponseDeleteRange().Deleted == 1, "delete: %v", deleted)
	missing := r.write(key, updated.Header.Revision, putOf(key, "4", 0), true)
	r.must(!missing.Succeeded && len(missing.Responses[0].GetResponseRange().GetKvs()) == 0, "update of what is gone: %v", missing)
}

func kubernetesCompactor(r *run) {
	key := "compact_rev_key"
	compact := func(version int64, value string) *pb.TxnResponse {
		answer, err := r.kv().Txn(r.ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte(key), TargetUnion: &pb.Compare_Version{Version: version}}},
			Success: []*pb.RequestOp{putOf(key, value, 0)},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
		})
		r.noError(err, "compactor transaction")
		return answer
	}
	_, err := r.kv().DeleteRange(r.ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	r.noError(err, "delete %s", key)
	current := r.rangeOf(&pb.RangeRequest{Key: []byte(key)}).Header.Revision
	stream := r.stream(false)
	stream.create(&pb.WatchCreateRequest{Key: []byte(key), StartRevision: current})
	first := compact(0, "0")
	r.must(first.Succeeded, "first transaction: %v", first)
	other := compact(0, "1")
	kvs := other.Responses[0].GetResponseRange().GetKvs()
	r.must(!other.Succeeded && len(kvs) == 1 && kvs[0].Version == 1 && string(kvs[0].Value) == "0", "second server: %v", other)
	revision := first.Header.Revision
	next := compact(1, strconv.FormatInt(revision, 10))
	r.must(next.Succeeded, "next transaction: %v", next)
	// The watch began at the current revision, not one later: it may see the delete as well.
	var puts []*mvccpb.Event
	for len(puts) < 2 {
		for _, event := range stream.next().Events {
			if event.Type == mvccpb.Event_PUT {
				puts = append(puts, event)
			}
		}
	}
	r.must(string(puts[1].Kv.Value) == strconv.FormatInt(revision, 10) && puts[1].PrevKv == nil, "events %v", puts)
	// A watch that has seen everything outlives the compaction.
	_, err = r.kv().Compact(r.ctx, &pb.CompactionRequest{Revision: revision})
	r.noError(err, "compact")
	compact(2, "after")
	answer := stream.next()
	r.must(len(answer.Events) == 1 && string(answer.Events[0].Kv.Value) == "after", "after the compaction: %v", answer)
}

// stream is one Watch stream, message by message.
type stream struct {
	r       *run
	watch   pb.Watch_WatchClient
	answers chan *pb.WatchResponse
	ids     map[int64]bool
}

func (r *run) stream(leader bool) *stream {
	ctx := r.ctx
	if leader {
		ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	watch, err := pb.NewWatchClient(r.client.ActiveConnection()).Watch(ctx)
	r.noError(err, "open a watch stream")
	s := &stream{r: r, watch: watch, answers: make(chan *pb.WatchResponse, 10000), ids: map[int64]bool{}}
	go func() {
		defer close(s.answers)
		for {
			answer, err := watch.Recv()
			if err != nil {
				return
			}
			s.answers <- answer
		}
	}()
	return s
}

func (s *stream) next() *pb.WatchResponse {
	select {
	case answer, open := <-s.answers:
		s.r.must(open, "the watch stream ended")
		return answer
	case <-time.After(limit):
		s.r.fail("no watch answer within %v", limit)
		return nil
	}
}

func (s *stream) send(request *pb.WatchRequest) {
	s.r.noError(s.watch.Send(request), "send on a watch stream")
}

func (s *stream) create(request *pb.WatchCreateRequest) *pb.WatchResponse {
	s.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	answer := s.next()
	s.r.must(answer.Created && len(answer.Events) == 0 && !answer.Canceled, "the first answer of a watch: %v", answer)
	s.r.must(!s.ids[answer.WatchId], "watch id %d twice", answer.WatchId)
	s.ids[answer.WatchId] = true
	return answer
}

func (s *stream) requestProgress() {
	s.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func prefixWatch(prefix string, start int64) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: prefixEnd(prefix), StartRevision: start, PrevKv: true, ProgressNotify: true,
	}
}

func kubernetesWatch(r *run) {
	prefix := registry + "configmaps/"
	r.deleteAll(prefix)
	listed := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Limit: 10000})
	stream := r.stream(true)
	created := stream.create(prefixWatch(prefix, listed.Header.Revision+1))
	r.must(created.Header.Revision >= listed.Header.Revision, "header of the create answer: %v", created.Header)
	first := r.create(prefix+"ns/a", "1")
	second := r.write(prefix+"ns/a", first, putOf(prefix+"ns/a", "2", 0), true).Header.Revision
	third := r.write(prefix+"ns/a", second, deleteOf(prefix+"ns/a"), true).Header.Revision
	var events []*mvccpb.Event
	for len(events) < 3 {
		answer := stream.next()
		r.must(answer.WatchId == created.WatchId && !answer.Canceled, "answer %v", answer)
		for _, event := range answer.Events {
			r.must(event.Kv.ModRevision <= answer.Header.Revision, "event of the future: %v", answer)
		}
		events = append(events, answer.Events...)
	}
	r.must(events[0].Kv.ModRevision == first && events[0].PrevKv == nil, "create %v", events[0])
	r.must(events[1].Kv.ModRevision == second && string(events[1].PrevKv.GetValue()) == "1", "update %v", events[1])
	r.must(events[2].Kv.ModRevision == third && events[2].Type == mvccpb.Event_DELETE, "delete %v", events[2])
	r.must(string(events[2].PrevKv.GetValue()) == "2" && len(events[2].Kv.Value) == 0, "delete %v", events[2])
	// All changes of one transaction arrive in one message.
	batch := &pb.TxnRequest{}
	for index := range 50 {
		batch.Success = append(batch.Success, putOf(fmt.Sprintf("%sbatch/%d", prefix, index), "x", 0))
	}
	_, err := r.kv().Txn(r.ctx, batch)
	r.noError(err, "a transaction of 50 puts")
	together := stream.next()
	r.must(len(together.Events) == 50, "one revision came in parts: %d", len(together.Events))
	stream.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: created.WatchId},
	}})
	canceled := stream.next()
	r.must(canceled.Canceled && canceled.WatchId == created.WatchId, "cancel answer %v", canceled)
	r.deleteAll(prefix)
}

func kubernetesSharedStream(r *run) {
	prefix := registry + "shared/"
	r.deleteAll(prefix)
	stream := r.stream(true)
	start := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), Limit: 1}).Header.Revision + 1
	var ids []int64
	for _, part := range []string{"a/", "b/", "c/"} {
		ids = append(ids, stream.create(prefixWatch(prefix+part, start)).WatchId)
	}
	whole := stream.create(prefixWatch(prefix, start)).WatchId
	r.create(prefix+"b/x", "1")
	r.create(prefix+"c/x", "1")
	seen := map[int64]int{}
	for seen[ids[1]]+seen[ids[2]]+seen[whole] < 4 {
		answer := stream.next()
		seen[answer.WatchId] += len(answer.Events)
	}
	r.must(seen[ids[0]] == 0 && seen[ids[1]] == 1 && seen[ids[2]] == 1 && seen[whole] == 2, "events by watch: %v", seen)
	r.deleteAll(prefix)
}

func kubernetesProgress(r *run) {
	prefix := registry + "progress/"
	r.deleteAll(prefix)
	start := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), Limit: 1}).Header.Revision + 1
	stream := r.stream(true)
	stream.create(prefixWatch(prefix, start))
	writing := make(chan int64)
	go func() {
		defer close(writing)
		for index := range 300 {
			answer, err := r.kv().Put(r.ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s%d", prefix, index), Value: []byte("x")})
			if err != nil {
				return
			}
			if index == 299 {
				writing <- answer.Header.Revision
			}
		}
	}()
	var last, delivered, progress int64
	var events int
	asked := time.NewTicker(10 * time.Millisecond)
	defer asked.Stop()
	deadline := time.After(limit)
	for last == 0 || progress < last {
		select {
		case revision, open := <-writing:
			if !open {
				writing = nil
				r.must(last != 0, "a put failed")
				continue
			}
			last = revision
		case <-asked.C:
			stream.requestProgress()
		case answer, open := <-stream.answers:
			r.must(open, "the watch stream ended")
			if len(answer.Events) == 0 {
				r.must(answer.WatchId == -1, "progress for watch %d", answer.WatchId)
				r.must(answer.Header.Revision >= progress, "progress went back to %d", answer.Header.Revision)
				progress = answer.Header.Revision
				continue
			}
			events += len(answer.Events)
			for _, event := range answer.Events {
				r.must(event.Kv.ModRevision > progress, "event %d after progress %d", event.Kv.ModRevision, progress)
				r.must(event.Kv.ModRevision > delivered, "event %d after event %d", event.Kv.ModRevision, delivered)
				delivered = event.Kv.ModRevision
			}
		case <-deadline:
			r.fail("progress reached %d, written was %d", progress, last)
		}
	}
	r.must(events == 300, "%d of 300 events before the progress", events)
	r.deleteAll(prefix)
}

func kubernetesCompactedWatch(r *run) {
	prefix := registry + "compacted/"
	first := r.put(prefix+"a", "1")
	second := r.put(prefix+"a", "2")
	_, err := r.kv().Compact(r.ctx, &pb.CompactionRequest{Revision: second})
	r.noError(err, "compact")
	stream := r.stream(true)
	created := stream.create(prefixWatch(prefix, first))
	canceled := stream.next()
	r.must(canceled.Canceled && canceled.WatchId == created.WatchId, "answer %v", canceled)
	r.must(canceled.CompactRevision == second && len(canceled.Events) == 0, "answer %v", canceled)
	// The stream itself lives on.
	again := stream.create(prefixWatch(prefix, second))
	answer := stream.next()
	r.must(answer.WatchId == again.WatchId && len(answer.Events) == 1, "from the compacted revision itself: %v", answer)
}

func kubernetesLease(r *run) {
	prefix := registry + "events/"
	r.deleteAll(prefix)
	lease := pb.NewLeaseClient(r.client.ActiveConnection())
	grant := func(ttl int64) *pb.LeaseGrantResponse {
		answer, err := lease.LeaseGrant(r.ctx, &pb.LeaseGrantRequest{TTL: ttl})
		r.noError(err, "grant")
		r.must(answer.ID > 0 && answer.TTL == ttl && answer.Error == "", "grant %v", answer)
		return answer
	}
	short, long := grant(3), grant(3660)
	start := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), Limit: 1}).Header.Revision + 1
	stream := r.stream(true)
	stream.create(prefixWatch(prefix, start))
	begin := time.Now()
	for index := range 3 {
		key := fmt.Sprintf("%sns/event-%d", prefix, index)
		answer := r.write(key, 0, putOf(key, "x", short.ID), false)
		r.must(answer.Succeeded, "create of an event: %v", answer)
		if index == 0 {
			// Renewed with another lease: the first one's end must not delete it.
			renewed := r.write(key, answer.Header.Revision, putOf(key, "renewed", long.ID), true)
			r.must(renewed.Succeeded, "renewal: %v", renewed)
		}
	}
	var deleted []*mvccpb.Event
	for len(deleted) < 2 {
		for _, event := range stream.next().Events {
			if event.Type == mvccpb.Event_DELETE {
				deleted = append(deleted, event)
			}
		}
	}
	took := time.Since(begin)
	for _, event := range deleted {
		r.must(event.PrevKv != nil && event.PrevKv.Lease == short.ID, "expired %v", event)
	}
	r.must(took > 2500*time.Millisecond && took < 6*time.Second, "a lease of 3 s expired after %v", took)
	left := r.rangeOf(&pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix)})
	r.must(left.Count == 1 && string(left.Kvs[0].Value) == "renewed" && left.Kvs[0].Lease == long.ID, "left %v", left.Kvs)
	r.deleteAll(prefix)
}

func kubernetesErrors(r *run) {
	check := func(err error, code codes.Code, text string) {
		found, ok := status.FromError(err)
		r.must(ok && err != nil && found.Code() == code && found.Message() == text, "wanted %v %q, got %v", code, text, err)
	}
	first := r.put("errors", "1")
	second := r.put("errors", "2")
	_, err := r.kv().Range(r.ctx, &pb.RangeRequest{Key: []byte("errors"), Revision: second + 100})
	check(err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	_, err = r.kv().Compact(r.ctx, &pb.CompactionRequest{Revision: second})
	r.noError(err, "compact")
	_, err = r.kv().Range(r.ctx, &pb.RangeRequest{Key: []byte("errors"), Revision: first})
	check(err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	_, err = r.kv().Compact(r.ctx, &pb.CompactionRequest{Revision: second})
	check(err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	_, err = r.kv().Put(r.ctx, &pb.PutRequest{Key: []byte("errors"), Value: make([]byte, 1572864)})
	check(err, codes.InvalidArgument, "etcdserver: request is too large")
	_, err = r.kv().Put(r.ctx, &pb.PutRequest{Key: []byte("errors"), Lease: 77})
	check(err, codes.NotFound, "etcdserver: requested lease not found")
	_, err = r.kv().Put(r.ctx, &pb.PutRequest{})
	check(err, codes.InvalidArgument, "etcdserver: key is not provided")
	ctx, cancel := context.WithTimeout(r.ctx, time.Nanosecond)
	defer cancel()
	_, err = r.kv().Range(ctx, &pb.RangeRequest{Key: []byte("errors")})
	r.must(errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded, "a deadline in the past: %v", err)
}

func kubernetesRangeStream(r *run) {
	prefix := registry + "streamed/"
	r.deleteAll(prefix)
	value := string(make([]byte, 2000))
	for index := range 500 {
		r.create(fmt.Sprintf("%s%04d", prefix, index), value)
	}
	stream, err := r.kv().RangeStream(r.ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix)})
	r.noError(err, "open")
	seen, chunks := 0, 0
	for {
		chunk, err := stream.Recv()
		r.noError(err, "chunk %d", chunks)
		chunks++
		answer := chunk.RangeResponse
		for _, kv := range answer.Kvs {
			r.must(string(kv.Key) == fmt.Sprintf("%s%04d", prefix, seen), "key %s at %d", kv.Key, seen)
			seen++
		}
		if answer.Header != nil {
			r.must(answer.Header.Revision > 0 && answer.Count == 500 && !answer.More, "last chunk %v", answer.Header)
			break
		}
		r.must(len(answer.Kvs) > 0 && answer.Count == 0 && !answer.More, "a middle chunk says more than keys")
	}
	r.must(seen == 500 && chunks > 1, "%d keys in %d chunks", seen, chunks)
	_, err = stream.Recv()
	r.must(err != nil && status.Code(err) != codes.Internal, "after the last chunk: %v", err)
	sorted, err := r.kv().RangeStream(r.ctx, &pb.RangeRequest{
		Key: []byte(prefix), RangeEnd: prefixEnd(prefix), SortOrder: pb.RangeRequest_DESCEND,
	})
	r.noError(err, "open a sorted stream")
	_, err = sorted.Recv()
	r.must(status.Code(err) == codes.Unimplemented, "a sorted stream: %v", err)
	r.deleteAll(prefix)
}
