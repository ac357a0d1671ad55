package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// quiet is how long a stream must stay silent before silence counts as the answer. Nothing else waits
// for time: a stream that is too slow to break the silence is not noticed, one that keeps it never fails.
const quiet = 400 * time.Millisecond

// askAgain is how often a stream is asked for its progress until it answers.
const askAgain = 20 * time.Millisecond

var watchDifferential = []differentialScenario{
	{"answers to creating and ending watches", watchCreation},
	{"ids of watches", watchIds},
	{"ranges of watches", watchRanges},
	{"start revisions of watches", watchStarts},
	{"watches of compacted revisions", watchCompacted},
	{"filters and previous values", watchFilters},
	{"transactions and leases in watches", watchTxns},
	{"progress on request", watchProgressRequests},
	{"fragments", watchFragments},
	{"ends of watch streams", watchEnds},
}

// watchPair is one watch stream on each side.
type watchPair struct {
	d       *differential
	streams [2]pb.Watch_WatchClient
	answers [2]chan any
	// kept are answers that were read but not compared yet.
	kept [2][]any
	// live are the watchers that were created and not ended, as far as the answers tell.
	live [2]atomic.Int64
	// settled is the revision up to which the streams were seen to have shown everything.
	settled int64
	cancel  context.CancelFunc
}

func (d *differential) watch(options ...callOption) *watchPair {
	setup := callSetup{}
	for _, option := range options {
		option(&setup)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if setup.context != nil {
		ctx = setup.context(ctx)
	}
	pair := &watchPair{d: d, cancel: cancel}
	for i, side := range d.sides {
		stream, err := pb.NewWatchClient(side.conn).Watch(ctx, setup.options...)
		d.must(err, side)
		answers := make(chan any, 1<<16)
		pair.streams[i], pair.answers[i] = stream, answers
		go func() {
			for {
				answer, err := stream.Recv()
				if err != nil {
					answers <- err
					pair.live[i].Store(0)
					return
				}
				// Never too few: what is not answered yet counts.
				if answer.Created && !answer.Canceled {
					pair.live[i].Add(1)
				}
				answers <- answer
				if answer.Canceled && !answer.Created {
					pair.live[i].Add(-1)
				}
			}
		}()
	}
	return pair
}

func (w *watchPair) send(request *pb.WatchRequest) {
	for i, stream := range w.streams {
		w.d.must(stream.Send(request), w.d.sides[i])
	}
}

func creation(key, end string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

// create asks for a watcher and compares the first `answers` answers.
func (w *watchPair) create(request *pb.WatchCreateRequest, answers int) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	w.expect("create "+compact(request), answers)
}

func (w *watchPair) end(id int64, answers int) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	w.expect(fmt.Sprintf("cancel %d", id), answers)
}

func (w *watchPair) progress(answers int) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{}}})
	w.expect("progress", answers)
}

// expect compares the next `count` answers of both streams, in the order of their watch ids: which
// watcher goes first is left to a server. A count of 0 demands silence.
func (w *watchPair) expect(what string, count int) {
	var texts [2]string
	w.d.each(func(side *side) {
		index := w.d.index(side)
		type shown struct {
			id   int64
			text string
		}
		var found []shown
		timeout := time.After(limit)
		if count == 0 {
			timeout = time.After(quiet)
		}
		for len(found) < max(count, 1) {
			select {
			case answer := <-w.answers[index]:
				if w.settled > 0 && isProgress(answer) {
					continue
				}
				switch answer := answer.(type) {
				case *pb.WatchResponse:
					found = append(found, shown{answer.WatchId, side.show(answer)})
					continue
				case error:
					found = append(found, shown{math.MaxInt64, endText(answer)})
				}
			case <-timeout:
				if count > 0 {
					found = append(found, shown{math.MaxInt64, silence})
				}
			}
			break
		}
		sort.SliceStable(found, func(a, b int) bool { return found[a].id < found[b].id })
		for _, one := range found {
			texts[index] += one.text + "\n"
		}
	})
	w.d.same(what, texts)
}

// expectEnd compares how both streams end, whatever they show before.
func (w *watchPair) expectEnd(what string) {
	var texts [2]string
	w.d.each(func(side *side) {
		index := w.d.index(side)
		timeout := time.After(limit)
		for texts[index] == "" {
			select {
			case answer := <-w.answers[index]:
				if err, ok := answer.(error); ok {
					texts[index] = endText(err)
				}
			case <-timeout:
				texts[index] = silence
			}
		}
	})
	w.d.same(what, texts)
}

func endText(err error) string {
	if err == io.EOF {
		return "end"
	}
	if status.Code(err) == codes.DeadlineExceeded {
		// Whether etcd's answer or its reset of the stream comes first is chance.
		return "deadline exceeded"
	}
	return errorText(err)
}

func (w *watchPair) close() {
	w.expect("silence at the end", 0)
	w.cancel()
}

func watchCreation(d *differential) {
	w := d.watch()
	w.send(&pb.WatchRequest{})
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{}})
	w.expect("an empty creation", 1)
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{}})
	w.expect("a cancel of the id 0", 1)
	w.end(0, 0)
	w.create(creation("a", ""), 1)
	d.call(put("a", "1"))
	w.expect("put", 1)
	d.call(put("b", "1"))
	d.call(del("a", ""))
	w.expect("delete", 1)
	d.call(del("a", ""))
	w.create(creation("b", ""), 1)
	d.call(put("b", "2"))
	w.expect("put", 1)
	w.end(1, 1)
	w.end(1, 0)
	d.call(put("b", "3"))
	w.expect("put", 1)
	w.end(42, 0)
	w.end(-1, 0)
	d.call(put("a", "2"))
	w.end(2, 1)
	w.close()
}

func watchIds(d *differential) {
	w := d.watch()
	with := func(id int64, answers int) {
		request := creation("a", "")
		request.WatchId = id
		w.create(request, answers)
	}
	with(0, 1)
	with(1, 1)
	with(0, 1)
	with(2, 1)
	with(1, 1)
	with(5, 1)
	with(0, 1)
	with(0, 1)
	with(0, 1)
	with(-1, 1)
	with(-2, 1)
	with(-2, 1)
	with(math.MaxInt64, 1)
	with(math.MinInt64, 1)
	d.call(put("a", "1"))
	w.expect("put", 11)
	w.end(5, 1)
	with(0, 1)
	with(5, 1)
	w.end(0, 1)
	with(0, 1)
	w.end(-2, 1)
	w.end(math.MinInt64, 1)
	w.close()
}

func watchRanges(d *differential) {
	w := d.watch()
	bounds := []string{"", "\x00", "a", "b", "b\x00", "c"}
	for _, key := range bounds {
		for _, end := range bounds {
			w.create(creation(key, end), 1)
		}
	}
	w.close()
	for _, form := range [][2]string{{"", ""}, {"", "\x00"}, {"\x00", "\x00"}, {"", "b"}, {"b", ""}, {"b", "\x00"}, {"a", "c"}} {
		w := d.watch()
		start := d.revision() + 1
		w.create(creation(form[0], form[1]), 1)
		for _, key := range []string{"\x00", "a", "b", "bb", "c", "\xff"} {
			d.call(put(key, "v"))
		}
		request := creation(form[0], form[1])
		request.StartRevision = start
		w.create(request, 1)
		w.drain("events of both watchers")
		w.cancel()
	}
}

// settle reads until both streams have shown everything up to now: a server answers a request for the
// progress of a stream only when no watcher of it lags, and after its events. Otherwise etcd says nothing,
// so it is asked again. What comes is kept, except for these answers. The watchers must not wait for
// revisions to come.
func (w *watchPair) settle() {
	// Answers to requests of the last time may still be on their way; their revision tells them apart.
	if w.d.revision() == w.settled {
		w.d.call(put("~", "settle"))
	}
	w.settled = w.d.revision()
	w.d.each(func(side *side) {
		index := w.d.index(side)
		deadline, ask := time.After(limit), time.After(0)
		for w.live[index].Load() > 0 || len(w.answers[index]) > 0 {
			select {
			case <-ask:
				// The stream's end comes as an answer.
				_ = w.streams[index].Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
					ProgressRequest: &pb.WatchProgressRequest{}}})
				ask = time.After(askAgain)
			case answer := <-w.answers[index]:
				if !isProgress(answer) {
					w.kept[index] = append(w.kept[index], answer)
				} else if answer.(*pb.WatchResponse).Header.Revision >= w.settled {
					return
				}
			case <-deadline:
				panic(fmt.Sprintf("%s: watchers of the %s server do not catch up", w.d.scenario, side.name))
			}
		}
	})
}

// isProgress tells an answer to a request for a stream's progress.
func isProgress(answer any) bool {
	response, ok := answer.(*pb.WatchResponse)
	return ok && response.WatchId == -1 && !response.Created && !response.Canceled
}

// drain compares all events up to now, watcher by watcher, without regard to how many answers carry them.
func (w *watchPair) drain(what string) {
	w.settle()
	var texts [2]string
	for index, side := range w.d.sides {
		events := map[int64][]string{}
		for _, answer := range w.kept[index] {
			switch answer := answer.(type) {
			case *pb.WatchResponse:
				for _, event := range answer.Events {
					events[answer.WatchId] = append(events[answer.WatchId], compact(event))
				}
				answer.Events = nil
				if answer.Created || answer.Canceled {
					events[answer.WatchId] = append(events[answer.WatchId], side.show(answer))
				}
			case error:
				events[math.MaxInt64] = append(events[math.MaxInt64], endText(answer))
			}
		}
		w.kept[index] = nil
		texts[index] = orderedText(events)
	}
	w.d.same(what, texts)
}

func orderedText(events map[int64][]string) string {
	var ids []int64
	for id := range events {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(a, b int) bool { return ids[a] < ids[b] })
	var text strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&text, "watch %d:\n%s\n", id, strings.Join(events[id], "\n"))
	}
	return text.String()
}

func watchStarts(d *differential) {
	first, last := sample(d)
	w := d.watch()
	from := func(revision int64, answers int) {
		request := creation("a", "z")
		request.StartRevision = revision
		w.create(request, answers)
	}
	from(first, 1)
	w.expect("history", 1)
	from(first+1, 2)
	from(last, 2)
	from(last-3, 2)
	from(first-1, 2)
	from(last+1, 1)
	from(last+2, 1)
	from(last+5, 1)
	from(math.MaxInt64, 1)
	from(-1, 1)
	from(math.MinInt64, 1)
	w.expect("silence", 0)
	d.call(put("a", "one"))
	w.expect("one", 6)
	d.call(put("a", "two"))
	w.expect("two", 7)
	d.call(put("outside", "three"))
	w.expect("three", 7)
	d.call(put("0", "four"))
	d.call(put("a", "five"))
	w.expect("five", 8)
	w.close()
	// Several streams: ids are those of each stream.
	other := d.watch()
	request := creation("missing", "")
	request.StartRevision = first
	other.create(request, 1)
	other.close()
}

func watchCompacted(d *differential) {
	first, last := sample(d)
	d.call(&pb.CompactionRequest{Revision: first + 4})
	w := d.watch()
	for _, revision := range []int64{1, first + 3} {
		request := creation("a", "z")
		request.StartRevision = revision
		w.create(request, 1)
		w.expect("compacted", 1)
	}
	for _, revision := range []int64{first + 4, first + 5} {
		request := creation("a", "z")
		request.StartRevision = revision
		w.create(request, 1)
		w.expect("history", 1)
	}
	request := creation("a", "z")
	request.StartRevision, request.WatchId, request.PrevKv, request.Fragment = 2, 70, true, true
	w.create(request, 1)
	w.expect("compacted", 1)
	request.StartRevision, request.WatchId = last, 0
	w.create(request, 1)
	w.expect("history", 1)
	d.call(&pb.CompactionRequest{Revision: last})
	d.call(put("a", "after"))
	w.expect("after", 3)
	// What was before an event is gone with the revision before it.
	request = creation("a", "z")
	request.StartRevision, request.PrevKv = last, true
	w.create(request, 1)
	w.expect("history", 1)
	d.call(&pb.CompactionRequest{Revision: d.revision()})
	d.call(put("a", "later"))
	w.expect("later", 4)
	w.close()
}

func watchFilters(d *differential) {
	first, _ := sample(d)
	w := d.watch()
	noPut, noDelete := pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE
	sets := [][]pb.WatchCreateRequest_FilterType{
		{}, {noPut}, {noDelete}, {noPut, noDelete}, {noPut, noPut}, {7}, {-1, noDelete},
	}
	for _, filters := range sets {
		for _, previous := range []bool{false, true} {
			for _, start := range []int64{0, first} {
				request := creation("a", "z")
				request.Filters, request.PrevKv, request.StartRevision = filters, previous, start
				w.create(request, 1)
				w.drain("events of " + compact(request))
			}
		}
	}
	for _, step := range []func(){
		func() { d.call(put("a", "again")) },
		func() { d.call(del("a", "")) },
		func() { d.call(del("a", "")) },
		func() { d.call(put("a", "back")) },
		func() { d.call(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true, Lease: 77}) },
		func() { d.call(del("\x00", "\x00")) },
	} {
		step()
		w.drain("a change")
	}
	w.cancel()
}

func watchTxns(d *differential) {
	d.call(&pb.LeaseGrantRequest{ID: 9, TTL: 600})
	w := d.watch()
	w.create(creation("\x00", "\x00"), 1)
	previous := creation("a", "c")
	previous.PrevKv = true
	w.create(previous, 1)
	d.call(then(putOp("b", "1"), putOp("a", "1"), putOp("z", "1")))
	w.expect("txn", 2)
	d.call(then(putOp("a", "2"), delOp("b", ""), delOp("z", "")))
	w.expect("txn", 2)
	d.call(then(delOp("a", ""), txnOp(then(putOp("b", "x"))), delOp("nothing", "")))
	w.expect("nested", 2)
	d.call(then(getOp("a", "")))
	d.call(then(delOp("a", "")))
	for _, key := range []string{"c", "b", "a"} {
		d.call(&pb.PutRequest{Key: []byte(key), Lease: 9})
	}
	w.drain("attached")
	d.call(&pb.LeaseRevokeRequest{ID: 9})
	w.expect("revoked", 2)
	d.call(then(delOp("a", ""), delOp("\x00", "\x00"), putOp("", "")))
	d.call(then(putOp("a", "1"), putOp("b", "1"), putOp("c", "1")))
	w.expect("three", 2)
	d.call(del("a", "c"))
	w.expect("two", 2)
	w.close()
}

func watchProgressRequests(d *differential) {
	w := d.watch()
	w.progress(0)
	w.create(creation("a", ""), 1)
	w.progress(1)
	d.call(put("b", "1"))
	w.progress(1)
	d.call(put("a", "1"))
	w.expect("put", 1)
	w.progress(1)
	w.progress(1)
	w.create(creation("a", "z"), 1)
	w.progress(1)
	w.end(0, 1)
	w.progress(1)
	w.end(1, 1)
	w.progress(0)
	notify := creation("q", "")
	notify.ProgressNotify = true
	w.create(notify, 1)
	w.progress(1)
	w.close()
}

func watchFragments(d *differential) {
	operations := make([]*pb.RequestOp, 0, 3)
	large := bytes.Repeat([]byte("x"), 400<<10)
	for i := range 3 {
		operations = append(operations, putOp(fmt.Sprintf("l%d", i), string(large)))
	}
	plain, split := d.watch(), d.watch()
	// One revision with more than two messages' worth of events: deletes that carry what was there.
	for i := range 8 {
		d.call(&pb.PutRequest{Key: fmt.Appendf(nil, "l%d", i), Value: large})
	}
	start := d.revision() + 1
	request := creation("l", "m")
	request.PrevKv = true
	plain.create(request, 1)
	request.Fragment = true
	split.create(request, 1)
	d.call(del("l", "m"))
	plain.expect("one message", 1)
	split.expect("fragments", 2)
	d.call(&pb.TxnRequest{Success: operations})
	plain.expect("three puts", 1)
	split.expect("three puts", 1)
	request.StartRevision = start
	again := d.watch()
	again.create(request, 1)
	again.drain("fragments of history")
	again.cancel()
	plain.close()
	split.close()
}

func watchEnds(d *differential) {
	w := d.watch()
	w.create(creation("a", ""), 1)
	for _, stream := range w.streams {
		if err := stream.CloseSend(); err != nil {
			panic(err)
		}
	}
	d.call(put("a", "after the client's end"))
	w.expect("after the client's end", 1)
	w.cancel()
	w.expect("after cancelling", 1)
	empty := d.watch()
	for _, stream := range empty.streams {
		if err := stream.CloseSend(); err != nil {
			panic(err)
		}
	}
	empty.expect("a stream without requests", 0)
	empty.cancel()
	timed := d.watch(withContext(func(ctx context.Context) context.Context {
		short, stop := context.WithTimeout(ctx, time.Second)
		context.AfterFunc(short, stop)
		return short
	}))
	timed.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: creation("a", "")}})
	timed.expectEnd("a deadline")
	gone := d.watch()
	gone.create(creation("a", ""), 1)
	gone.cancel()
	gone.expect("after cancelling", 1)
}

// awaitCreation waits until both sides have answered a creation; the answers are compared later.
func (w *watchPair) awaitCreation() {
	w.d.each(func(side *side) {
		index := w.d.index(side)
		var waiting []any
		deadline := time.After(limit)
		for {
			select {
			case answer := <-w.answers[index]:
				waiting = append(waiting, answer)
				if answer, ok := answer.(*pb.WatchResponse); ok && answer.Created {
					w.kept[index] = append(w.kept[index], waiting...)
					return
				}
			case <-deadline:
				panic(w.d.scenario + ": a watch is not created")
			}
		}
	})
}
