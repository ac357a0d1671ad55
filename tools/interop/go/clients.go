package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var clientScenarios = []scenario{
	{"kv: put, get, delete", keyValues},
	{"kv: pages by limit and continue key", pages},
	{"kv: values up to the limit and beyond", largeValues},
	{"kv: old revisions and compaction", oldRevisions},
	{"kv: stream of a large range", streamedRange},
	{"txn: compares of every kind", compares},
	{"txn: nested, atomic, one revision", nestedTransaction},
	{"txn: what is refused", refusedTransactions},
	{"watch: live events in order with previous values", liveWatch},
	{"watch: from an old revision, then live", oldWatch},
	{"watch: filters, ranges and several on one stream", manyWatches},
	{"watch: progress", watchProgress},
	{"watch: large events in fragments", fragmentedWatch},
	{"watch: compacted start", compactedWatch},
	{"watch: cancel ends one and not the others", cancelledWatch},
	{"lease: keys, time to live, revocation", leases},
	{"lease: keep-alive outlives its time to live", keepAlive},
	{"lease: expiry deletes and is watched", leaseExpiry},
	{"maintenance: status, alarms, members", maintenance},
}

// deleteAll clears a scenario's own keys.
func (r *run) deleteAll(prefix string) {
	_, err := r.client.Delete(r.ctx, prefix, clientv3.WithPrefix())
	r.noError(err, "delete %s", prefix)
}

func (r *run) put(key, value string, options ...clientv3.OpOption) int64 {
	answer, err := r.client.Put(r.ctx, key, value, options...)
	r.noError(err, "put %s", key)
	return answer.Header.Revision
}

func (r *run) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	answer, err := r.client.Get(r.ctx, key, options...)
	r.noError(err, "get %s", key)
	return answer
}

func keyValues(r *run) {
	r.deleteAll("go/kv/")
	first := r.put("go/kv/a", "1")
	second := r.put("go/kv/a", "2")
	r.must(second == first+1, "two puts at revisions %d and %d", first, second)
	answer := r.get("go/kv/a")
	r.must(len(answer.Kvs) == 1 && answer.Count == 1 && !answer.More, "answer %v", answer)
	kv := answer.Kvs[0]
	r.must(kv.CreateRevision == first && kv.ModRevision == second && kv.Version == 2, "revisions of %v", kv)
	r.must(string(kv.Value) == "2" && kv.Lease == 0, "value of %v", kv)
	r.must(answer.Header.Revision >= second, "header %v", answer.Header)
	previous, err := r.client.Put(r.ctx, "go/kv/a", "3", clientv3.WithPrevKV())
	r.noError(err, "put with the previous value")
	r.must(string(previous.PrevKv.Value) == "2", "previous %v", previous.PrevKv)
	deleted, err := r.client.Delete(r.ctx, "go/kv/a", clientv3.WithPrevKV())
	r.noError(err, "delete")
	r.must(deleted.Deleted == 1 && string(deleted.PrevKvs[0].Value) == "3", "deleted %v", deleted)
	again, err := r.client.Delete(r.ctx, "go/kv/a")
	r.noError(err, "delete again")
	r.must(again.Deleted == 0 && again.Header.Revision == deleted.Header.Revision, "deleted again %v", again)
	r.put("go/kv/a", "back")
	kv = r.get("go/kv/a").Kvs[0]
	r.must(kv.Version == 1 && kv.CreateRevision == kv.ModRevision, "a key that came back: %v", kv)
	_, err = r.client.Put(r.ctx, "", "x")
	r.must(errors.Is(err, rpctypes.ErrEmptyKey), "a put without key: %v", err)
}

func pages(r *run) {
	r.deleteAll("go/page/")
	for index := range 25 {
		r.put(fmt.Sprintf("go/page/%02d", index), "x")
	}
	key, end, seen := "go/page/", clientv3.GetPrefixRangeEnd("go/page/"), 0
	var revision int64
	for {
		page := r.get(key, clientv3.WithRange(end), clientv3.WithLimit(10), clientv3.WithRev(revision))
		if revision == 0 {
			revision = page.Header.Revision
		}
		r.must(page.Count == int64(25-seen), "count %d with %d keys seen", page.Count, seen)
		for _, kv := range page.Kvs {
			r.must(string(kv.Key) == fmt.Sprintf("go/page/%02d", seen), "key %s at %d", kv.Key, seen)
			seen++
		}
		if !page.More {
			break
		}
		// Written behind the first page: not in the pinned revision.
		r.put("go/page/zz", "late")
		key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	r.must(seen == 25, "%d keys in pages", seen)
}

func largeValues(r *run) {
	r.deleteAll("go/large/")
	value := strings.Repeat("v", 1<<20)
	r.put("go/large/a", value)
	r.must(string(r.get("go/large/a").Kvs[0].Value) == value, "a value of 1 MiB changed")
	_, err := r.client.Put(r.ctx, "go/large/b", strings.Repeat("v", 1572864))
	r.must(errors.Is(err, rpctypes.ErrRequestTooLarge), "a request of 1.5 MiB and more: %v", err)
	for index := range 8 {
		r.put(fmt.Sprintf("go/large/many/%d", index), value)
	}
	answer := r.get("go/large/many/", clientv3.WithPrefix())
	r.must(len(answer.Kvs) == 8, "an answer of 8 MiB has %d keys", len(answer.Kvs))
	r.deleteAll("go/large/")
}

func oldRevisions(r *run) {
	r.deleteAll("go/old/")
	first := r.put("go/old/a", "1")
	second := r.put("go/old/a", "2")
	third := r.put("go/old/b", "3")
	r.must(string(r.get("go/old/a", clientv3.WithRev(first)).Kvs[0].Value) == "1", "at the first revision")
	_, err := r.client.Get(r.ctx, "go/old/a", clientv3.WithRev(third+1000))
	r.must(errors.Is(err, rpctypes.ErrFutureRev), "a future revision: %v", err)
	_, err = r.client.Compact(r.ctx, second)
	r.noError(err, "compact")
	_, err = r.client.Get(r.ctx, "go/old/a", clientv3.WithRev(first))
	r.must(errors.Is(err, rpctypes.ErrCompacted), "a compacted revision: %v", err)
	r.must(string(r.get("go/old/a", clientv3.WithRev(second)).Kvs[0].Value) == "2", "at the compacted revision itself")
	_, err = r.client.Compact(r.ctx, second)
	r.must(errors.Is(err, rpctypes.ErrCompacted), "compact again: %v", err)
	_, err = r.client.Compact(r.ctx, third+1000)
	r.must(errors.Is(err, rpctypes.ErrFutureRev), "compact the future: %v", err)
}

func streamedRange(r *run) {
	r.deleteAll("go/stream/")
	value := strings.Repeat("v", 1000)
	for index := range 200 {
		r.put(fmt.Sprintf("go/stream/%03d", index), value)
	}
	stream, err := r.client.GetStream(r.ctx, "go/stream/", clientv3.WithPrefix())
	r.noError(err, "open a stream")
	answer, err := clientv3.GetStreamToGetResponse(stream)
	r.noError(err, "read a stream")
	unary := r.get("go/stream/", clientv3.WithPrefix())
	r.must(len(answer.Kvs) == 200 && answer.Count == unary.Count, "%d of %d keys", len(answer.Kvs), answer.Count)
	for index, kv := range answer.Kvs {
		r.must(bytes.Equal(kv.Key, unary.Kvs[index].Key) && kv.ModRevision == unary.Kvs[index].ModRevision, "key %s", kv.Key)
	}
}

func compares(r *run) {
	r.deleteAll("go/compare/")
	lease, err := r.client.Grant(r.ctx, 600)
	r.noError(err, "grant")
	r.put("go/compare/a", "1")
	modified := r.put("go/compare/a", "m", clientv3.WithLease(lease.ID))
	kv := r.get("go/compare/a").Kvs[0]
	key, missing := "go/compare/a", "go/compare/missing"
	checks := []struct {
		compare clientv3.Cmp
		holds   bool
	}{
		{clientv3.Compare(clientv3.Value(key), "=", "m"), true},
		{clientv3.Compare(clientv3.Value(key), ">", "l"), true},
		{clientv3.Compare(clientv3.Value(key), "<", "l"), false},
		{clientv3.Compare(clientv3.Value(key), "!=", "m"), false},
		{clientv3.Compare(clientv3.Value(missing), "!=", "m"), false},
		{clientv3.Compare(clientv3.Version(key), "=", 2), true},
		{clientv3.Compare(clientv3.Version(missing), "=", 0), true},
		{clientv3.Compare(clientv3.CreateRevision(key), "=", kv.CreateRevision), true},
		{clientv3.Compare(clientv3.CreateRevision(missing), "=", 0), true},
		{clientv3.Compare(clientv3.ModRevision(key), "=", modified), true},
		{clientv3.Compare(clientv3.ModRevision(key), "<", modified), false},
		{clientv3.Compare(clientv3.LeaseValue(key), "=", int64(lease.ID)), true},
		{clientv3.Compare(clientv3.LeaseValue(missing), "=", 0), true},
		{clientv3.Compare(clientv3.Version("go/compare/").WithPrefix(), ">", 0), true},
		{clientv3.Compare(clientv3.Version("go/compare/").WithPrefix(), ">", 2), false},
		{clientv3.Compare(clientv3.Version("go/nothing/").WithPrefix(), "=", 0), true},
	}
	for index, check := range checks {
		answer, err := r.client.Txn(r.ctx).If(check.compare).Commit()
		r.noError(err, "compare %d", index)
		r.must(answer.Succeeded == check.holds, "compare %d gave %v", index, answer.Succeeded)
	}
	_, err = r.client.Revoke(r.ctx, lease.ID)
	r.noError(err, "revoke")
}

func nestedTransaction(r *run) {
	r.deleteAll("go/nested/")
	r.put("go/nested/b", "1")
	before := r.put("go/nested/a", "1")
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value("go/nested/a"), "=", "1")},
		[]clientv3.Op{clientv3.OpPut("go/nested/inner", "yes"), clientv3.OpGet("go/nested/", clientv3.WithPrefix())},
		[]clientv3.Op{clientv3.OpPut("go/nested/inner", "no")},
	)
	answer, err := r.client.Txn(r.ctx).
		If(clientv3.Compare(clientv3.Version("go/nested/a"), "=", 1)).
		Then(clientv3.OpPut("go/nested/a", "2"), inner, clientv3.OpDelete("go/nested/b")).
		Commit()
	r.noError(err, "nested transaction")
	r.must(answer.Succeeded && answer.Header.Revision == before+1, "answer %v", answer)
	nested := answer.Responses[1].GetResponseTxn()
	// Compares see the state before the transaction, reads inside see its earlier writes.
	r.must(nested.Succeeded && len(nested.Responses[1].GetResponseRange().Kvs) == 3, "inner answer %v", nested)
	left := r.get("go/nested/", clientv3.WithPrefix())
	r.must(left.Count == 2 && string(left.Kvs[0].Value) == "2", "left %v", left.Kvs)
	r.must(string(left.Kvs[1].Value) == "yes", "left %v", left.Kvs)
	for _, kv := range left.Kvs {
		r.must(kv.ModRevision == before+1, "revision of %v", kv)
	}
}

func refusedTransactions(r *run) {
	_, err := r.client.Txn(r.ctx).Then(clientv3.OpPut("go/dup", "1"), clientv3.OpPut("go/dup", "2")).Commit()
	r.must(errors.Is(err, rpctypes.ErrDuplicateKey), "the same key twice: %v", err)
	operations := make([]clientv3.Op, 129)
	for index := range operations {
		operations[index] = clientv3.OpPut(fmt.Sprintf("go/ops/%d", index), "x")
	}
	_, err = r.client.Txn(r.ctx).Then(operations...).Commit()
	r.must(errors.Is(err, rpctypes.ErrTooManyOps), "129 operations: %v", err)
	_, err = r.client.Txn(r.ctx).Then(operations[:128]...).Commit()
	r.noError(err, "128 operations")
	_, err = r.client.Txn(r.ctx).Then(clientv3.OpPut("go/ops/new", "x"), clientv3.OpGet("go/ops/1", clientv3.WithRev(1<<40))).Commit()
	r.must(errors.Is(err, rpctypes.ErrFutureRev), "a read of the future: %v", err)
	r.must(r.get("go/ops/new").Count == 0, "a refused transaction has written")
	r.deleteAll("go/ops/")
}

// events collects from a watch until count events are there.
func (r *run) events(watch clientv3.WatchChan, count int) []*clientv3.Event {
	var events []*clientv3.Event
	deadline := time.After(limit)
	for len(events) < count {
		select {
		case answer, open := <-watch:
			r.must(open, "the watch ended after %d of %d events", len(events), count)
			r.noError(answer.Err(), "watch")
			events = append(events, answer.Events...)
		case <-deadline:
			r.fail("%d of %d events after %v", len(events), count, limit)
		}
	}
	return events
}

// watch opens a watch and waits until the server has confirmed it.
func (r *run) watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	watch := r.client.Watch(ctx, key, append(options, clientv3.WithCreatedNotify())...)
	select {
	case answer := <-watch:
		r.must(answer.Created && len(answer.Events) == 0, "the first answer of a watch: %v", answer)
	case <-time.After(limit):
		r.fail("the watch was not created")
	}
	return watch
}

func liveWatch(r *run) {
	r.deleteAll("go/live/")
	watch := r.watch(r.ctx, "go/live/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	for index := range 100 {
		r.put(fmt.Sprintf("go/live/%d", index%10), fmt.Sprint(index))
	}
	deleted, err := r.client.Delete(r.ctx, "go/live/", clientv3.WithPrefix())
	r.noError(err, "delete")
	events := r.events(watch, 110)
	for index, event := range events[:100] {
		r.must(event.IsCreate() == (index < 10), "event %d: %v", index, event)
		r.must(string(event.Kv.Value) == fmt.Sprint(index), "event %d: %v", index, event)
		if index >= 10 {
			r.must(string(event.PrevKv.Value) == fmt.Sprint(index-10), "previous of event %d: %v", index, event)
		} else {
			r.must(event.PrevKv == nil, "previous of a created key: %v", event)
		}
		r.must(index == 0 || event.Kv.ModRevision == events[index-1].Kv.ModRevision+1, "order at %d: %v", index, event)
	}
	for _, event := range events[100:] {
		r.must(event.Type == clientv3.EventTypeDelete && event.PrevKv != nil, "a delete: %v", event)
		r.must(event.Kv.ModRevision == deleted.Header.Revision, "revision of a delete: %v", event)
	}
}

func oldWatch(r *run) {
	r.deleteAll("go/past/")
	first := r.put("go/past/0", "0")
	for index := 1; index < 50; index++ {
		r.put(fmt.Sprintf("go/past/%d", index), "x")
	}
	watch := r.watch(r.ctx, "go/past/", clientv3.WithPrefix(), clientv3.WithRev(first))
	for index := 50; index < 100; index++ {
		r.put(fmt.Sprintf("go/past/%d", index), "x")
	}
	for index, event := range r.events(watch, 100) {
		r.must(string(event.Kv.Key) == fmt.Sprintf("go/past/%d", index), "event %d: %v", index, event)
	}
}

func manyWatches(r *run) {
	r.deleteAll("go/many/")
	noPut := r.watch(r.ctx, "go/many/", clientv3.WithPrefix(), clientv3.WithFilterPut())
	noDelete := r.watch(r.ctx, "go/many/", clientv3.WithPrefix(), clientv3.WithFilterDelete())
	one := r.watch(r.ctx, "go/many/b")
	fromKey := r.watch(r.ctx, "go/many/c", clientv3.WithFromKey())
	for _, key := range []string{"a", "b", "c", "d"} {
		r.put("go/many/"+key, key)
	}
	_, err := r.client.Delete(r.ctx, "go/many/b")
	r.noError(err, "delete")
	r.must(r.events(noPut, 1)[0].Type == clientv3.EventTypeDelete, "a put passed the filter")
	for _, event := range r.events(noDelete, 4) {
		r.must(event.Type == clientv3.EventTypePut, "a delete passed the filter")
	}
	events := r.events(one, 2)
	r.must(string(events[0].Kv.Key) == "go/many/b" && events[1].Type == clientv3.EventTypeDelete, "one key: %v", events)
	events = r.events(fromKey, 2)
	r.must(string(events[0].Kv.Key) == "go/many/c" && string(events[1].Kv.Key) == "go/many/d", "from a key: %v", events)
}

func watchProgress(r *run) {
	watch := r.watch(r.ctx, "go/progress/", clientv3.WithPrefix())
	revision := r.put("go/elsewhere", "x")
	r.noError(r.client.RequestProgress(r.ctx), "request progress")
	select {
	case answer := <-watch:
		r.must(answer.IsProgressNotify(), "not a progress answer: %v", answer)
		r.must(answer.Header.Revision >= revision, "progress at %d, written at %d", answer.Header.Revision, revision)
	case <-time.After(limit):
		r.fail("no progress answer")
	}
}

func fragmentedWatch(r *run) {
	r.deleteAll("go/fragment/")
	watch := r.watch(r.ctx, "go/fragment/", clientv3.WithPrefix(), clientv3.WithFragment())
	value := strings.Repeat("v", 300<<10)
	// Read again from the past, these 3 MiB are more than one response may hold.
	first := r.put("go/fragment/0", value)
	for index := 1; index < 10; index++ {
		r.put(fmt.Sprintf("go/fragment/%d", index), value)
	}
	events := r.events(watch, 10)
	r.must(events[0].Kv.ModRevision == first, "first event %v", events[0].Kv.ModRevision)
	again := r.watch(r.ctx, "go/fragment/", clientv3.WithPrefix(), clientv3.WithFragment(), clientv3.WithRev(first))
	for index, event := range r.events(again, 10) {
		r.must(event.Kv.ModRevision == events[index].Kv.ModRevision && len(event.Kv.Value) == len(value), "event %d", index)
	}
	r.deleteAll("go/fragment/")
}

func compactedWatch(r *run) {
	first := r.put("go/compacted", "1")
	second := r.put("go/compacted", "2")
	_, err := r.client.Compact(r.ctx, second)
	r.noError(err, "compact")
	select {
	case answer := <-r.client.Watch(r.ctx, "go/compacted", clientv3.WithRev(first)):
		r.must(answer.Canceled && answer.CompactRevision == second, "answer %v", answer)
		r.must(errors.Is(answer.Err(), rpctypes.ErrCompacted), "error %v", answer.Err())
	case <-time.After(limit):
		r.fail("no answer to a compacted watch")
	}
	watch := r.watch(r.ctx, "go/compacted", clientv3.WithRev(second))
	r.must(string(r.events(watch, 1)[0].Kv.Value) == "2", "from the compacted revision itself")
}

func cancelledWatch(r *run) {
	ctx, cancel := context.WithCancel(r.ctx)
	ending := r.watch(ctx, "go/cancel")
	staying := r.watch(r.ctx, "go/cancel")
	cancel()
	select {
	case _, open := <-ending:
		r.must(!open, "an answer after the cancel")
	case <-time.After(limit):
		r.fail("the cancelled watch stays open")
	}
	r.put("go/cancel", "x")
	r.events(staying, 1)
}

func leases(r *run) {
	r.deleteAll("go/lease/")
	lease, err := r.client.Grant(r.ctx, 600)
	r.noError(err, "grant")
	r.must(lease.TTL == 600 && lease.ID > 0, "lease %v", lease)
	r.put("go/lease/a", "1", clientv3.WithLease(lease.ID))
	r.put("go/lease/b", "2", clientv3.WithLease(lease.ID))
	r.put("go/lease/b", "free")
	ttl, err := r.client.TimeToLive(r.ctx, lease.ID, clientv3.WithAttachedKeys())
	r.noError(err, "time to live")
	r.must(ttl.GrantedTTL == 600 && ttl.TTL > 590 && ttl.TTL <= 600, "time to live %v", ttl)
	r.must(len(ttl.Keys) == 1 && string(ttl.Keys[0]) == "go/lease/a", "keys %q", ttl.Keys)
	listed, err := r.client.Leases(r.ctx)
	r.noError(err, "list")
	found := false
	for _, entry := range listed.Leases {
		found = found || entry.ID == lease.ID
	}
	r.must(found, "the lease is not listed")
	_, err = r.client.Put(r.ctx, "go/lease/c", "3", clientv3.WithLease(12345))
	r.must(errors.Is(err, rpctypes.ErrLeaseNotFound), "a put with an unknown lease: %v", err)
	_, err = r.client.Revoke(r.ctx, lease.ID)
	r.noError(err, "revoke")
	left := r.get("go/lease/", clientv3.WithPrefix())
	r.must(left.Count == 1 && string(left.Kvs[0].Value) == "free", "left %v", left.Kvs)
	gone, err := r.client.TimeToLive(r.ctx, lease.ID)
	r.noError(err, "time to live of a revoked lease")
	r.must(gone.TTL == -1, "a revoked lease lives: %v", gone)
	_, err = r.client.Revoke(r.ctx, lease.ID)
	r.must(errors.Is(err, rpctypes.ErrLeaseNotFound), "revoke again: %v", err)
}

func keepAlive(r *run) {
	lease, err := r.client.Grant(r.ctx, 2)
	r.noError(err, "grant")
	r.put("go/alive", "1", clientv3.WithLease(lease.ID))
	ctx, cancel := context.WithCancel(r.ctx)
	answers, err := r.client.KeepAlive(ctx, lease.ID)
	r.noError(err, "keep alive")
	begin := time.Now()
	for time.Since(begin) < 4*time.Second {
		select {
		case answer, open := <-answers:
			r.must(open && answer.TTL == 2, "keep-alive answer %v", answer)
		case <-time.After(limit):
			r.fail("no keep-alive answer")
		}
	}
	r.must(r.get("go/alive").Count == 1, "the key is gone although its lease was kept alive")
	cancel()
	_, err = r.client.KeepAliveOnce(r.ctx, 12345)
	r.must(errors.Is(err, rpctypes.ErrLeaseNotFound), "keep an unknown lease alive: %v", err)
	_, err = r.client.Revoke(r.ctx, lease.ID)
	r.noError(err, "revoke")
}

func leaseExpiry(r *run) {
	watch := r.watch(r.ctx, "go/expiry/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	lease, err := r.client.Grant(r.ctx, 2)
	r.noError(err, "grant")
	begin := time.Now()
	r.put("go/expiry/a", "1", clientv3.WithLease(lease.ID))
	r.put("go/expiry/b", "2", clientv3.WithLease(lease.ID))
	events := r.events(watch, 4)
	took := time.Since(begin)
	for _, event := range events[2:] {
		r.must(event.Type == clientv3.EventTypeDelete && event.PrevKv != nil, "expiry event %v", event)
	}
	r.must(events[2].Kv.ModRevision == events[3].Kv.ModRevision, "one lease expires in one revision")
	r.must(took > 1500*time.Millisecond && took < 5*time.Second, "expired after %v", took)
}

func maintenance(r *run) {
	status, err := r.client.Status(r.ctx, r.client.Endpoints()[0])
	r.noError(err, "status")
	r.must(status.Version == "3.7.3", "version %s", status.Version)
	r.must(status.DbSize > 0 && status.Leader == status.Header.MemberId, "status %v", status)
	alarms, err := r.client.AlarmList(r.ctx)
	r.noError(err, "alarms")
	r.must(len(alarms.Alarms) == 0, "alarms %v", alarms.Alarms)
	members, err := r.client.MemberList(r.ctx)
	r.noError(err, "members")
	r.must(len(members.Members) == 1 && members.Members[0].Name == "default", "members %v", members.Members)
}
