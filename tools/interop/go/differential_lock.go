package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/protobuf/proto"
)

var lockDifferential = []differentialScenario{
	{"locks", locks},
	{"locks that are waited for", lockQueue},
	{"elections", elections},
	{"elections that are waited for", electionQueue},
	{"observed elections", observedElections},
}

// sessions grants leases of a long life.
func sessions(d *differential, ids ...int64) {
	for _, id := range ids {
		d.call(&pb.LeaseGrantRequest{ID: id, TTL: 6000})
	}
}

// pending is a call that is under way on both sides.
type pending struct {
	d       *differential
	request proto.Message
	texts   [2]chan string
	cancel  context.CancelFunc
}

// begin sends a request that is not answered at once, and returns when both sides have its key, if one is named.
func (d *differential) begin(request proto.Message, key string) *pending {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	p := &pending{d: d, request: request, cancel: cancel}
	for i, side := range d.sides {
		p.texts[i] = make(chan string, 1)
		go func() {
			answer := answerOf(request)
			if err := side.conn.Invoke(ctx, methodOf(request), proto.Clone(request), answer); err != nil {
				p.texts[i] <- errorText(err)
				return
			}
			p.texts[i] <- side.show(answer)
		}()
	}
	if key != "" {
		d.until(key, 1)
	}
	return p
}

// until waits until both sides have so many of a key.
func (d *differential) until(key string, count int64) {
	d.each(func(side *side) {
		for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
			answer, err := pb.NewKVClient(side.conn).Range(context.Background(), &pb.RangeRequest{Key: []byte(key)})
			d.must(err, side)
			if answer.Count == count {
				return
			}
			if time.Now().After(deadline) {
				panic(fmt.Sprintf("%s: %s: %d of %q", d.scenario, side.name, answer.Count, key))
			}
		}
	})
}

// waits checks that no side has answered.
func (p *pending) waits() {
	time.Sleep(quiet / 4)
	var texts [2]string
	for i, text := range p.texts {
		texts[i] = fmt.Sprintf("%d answers", len(text))
	}
	p.d.same("waiting "+compact(p.request), texts)
}

// ends compares the answers.
func (p *pending) ends() {
	texts := [2]string{<-p.texts[0], <-p.texts[1]}
	p.cancel()
	p.d.same("awaited "+compact(p.request), texts)
}

func lock(name string, lease int64) *lpb.LockRequest {
	return &lpb.LockRequest{Name: []byte(name), Lease: lease}
}

func unlock(key string) *lpb.UnlockRequest {
	return &lpb.UnlockRequest{Key: []byte(key)}
}

func locks(d *differential) {
	sessions(d, 0x11, 0x12, 0x7fff_ffff_ffff_ffff)
	d.call(lock("a", 0x11))
	d.call(get("", ""))
	d.call(get("a", "b"))
	d.call(lock("a", 0x11))
	d.call(lock("b", 0x12))
	d.call(lock("b/c", 0x12))
	d.call(lock("b/", 0x7fff_ffff_ffff_ffff))
	d.call(lock("", 0x11))
	d.call(lock("none", 99))
	d.call(lock("none", -5))
	d.call(lock(strings.Repeat("x", 1000), 0x11))
	d.call(get("\x00", "\x00"))
	d.call(unlock("a/11"))
	d.call(unlock("a/11"))
	d.call(unlock("nothing"))
	d.call(unlock(""))
	d.call(&pb.LeaseRevokeRequest{ID: 0x12})
	d.call(get("\x00", "\x00"))
	// Without a lease the server grants one, of a minute.
	var texts [2]string
	d.each(func(side *side) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		answer, err := lpb.NewLockClient(side.conn).Lock(ctx, lock("free", 0))
		d.must(err, side)
		var lease int64
		_, err = fmt.Sscanf(string(answer.Key), "free/%x", &lease)
		d.must(err, side)
		life, err := pb.NewLeaseClient(side.conn).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease, Keys: true})
		d.must(err, side)
		texts[d.index(side)] = fmt.Sprint(life.GrantedTTL, len(life.Keys), answer.Header.Revision)
	})
	d.same("a lock without lease", texts)
}

func lockQueue(d *differential) {
	sessions(d, 0x21, 0x22, 0x23, 0x24)
	d.call(lock("q", 0x21))
	second := d.begin(lock("q", 0x22), "q/22")
	third := d.begin(lock("q", 0x23), "q/23")
	fourth := d.begin(lock("q", 0x24), "q/24")
	second.waits()
	d.call(get("q/", "q0"))
	d.call(unlock("q/21"))
	second.ends()
	third.waits()
	// One in the middle leaves: the last one must not take it for its turn.
	d.call(&pb.LeaseRevokeRequest{ID: 0x23})
	fourth.waits()
	d.call(unlock("q/22"))
	third.ends()
	fourth.ends()
	d.call(get("q/", "q0"))
	// A caller that gives up takes its key along.
	sessions(d, 0x25)
	impatient := d.begin(lock("q", 0x25), "q/25")
	impatient.cancel()
	impatient.ends()
	d.until("q/25", 0)
	d.call(get("q/", "q0"))
	d.call(lock("q", 0x24))
}

func campaign(name string, lease int64, value string) *epb.CampaignRequest {
	return &epb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)}
}

func elections(d *differential) {
	leader := func(name string) *epb.LeaderRequest { return &epb.LeaderRequest{Name: []byte(name)} }
	sessions(d, 0x31, 0x32)
	d.call(leader("e"))
	d.call(campaign("e", 0x31, "one"))
	d.call(leader("e"))
	d.call(leader("e/"))
	d.call(leader(""))
	d.call(campaign("e", 0x31, "one"))
	d.call(campaign("e", 0x31, "another"))
	d.call(leader("e"))
	d.call(campaign("", 0x31, ""))
	d.call(campaign("e", 99, "none"))
	answer, err := pb.NewKVClient(d.sides[reference].conn).Range(context.Background(), get("e/31", ""))
	d.must(err, d.sides[reference])
	created := answer.Kvs[0].CreateRevision
	key := func(revision, lease int64) *epb.LeaderKey {
		return &epb.LeaderKey{Name: []byte("e"), Key: []byte("e/31"), Rev: revision, Lease: lease}
	}
	proclaim := func(leader *epb.LeaderKey, value string) {
		d.call(&epb.ProclaimRequest{Leader: leader, Value: []byte(value)})
	}
	proclaim(key(created, 0x31), "proclaimed")
	d.call(leader("e"))
	proclaim(key(created-1, 0x31), "too old")
	proclaim(key(created, 99), "no lease")
	proclaim(&epb.LeaderKey{}, "")
	proclaim(nil, "nobody")
	proclaim(key(created, 0x32), "of another lease")
	d.call(get("e/", "e0"))
	d.call(&epb.ResignRequest{})
	d.call(&epb.ResignRequest{Leader: key(created-1, 0x31)})
	d.call(&epb.ResignRequest{Leader: &epb.LeaderKey{}})
	d.call(get("e/", "e0"))
	d.call(&epb.ResignRequest{Leader: key(created, 0x31)})
	d.call(&epb.ResignRequest{Leader: key(created, 0x31)})
	proclaim(key(created, 0x31), "resigned")
	d.call(leader("e"))
	d.call(get("\x00", "\x00"))
}

func electionQueue(d *differential) {
	sessions(d, 0x41, 0x42, 0x43)
	d.call(campaign("q", 0x41, "first"))
	second := d.begin(campaign("q", 0x42, "second"), "q/42")
	third := d.begin(campaign("q", 0x43, "third"), "q/43")
	second.waits()
	d.call(&pb.LeaseRevokeRequest{ID: 0x41})
	second.ends()
	third.waits()
	third.cancel()
	third.ends()
	d.until("q/43", 0)
	d.call(get("q/", "q0"))
}

func observedElections(d *differential) {
	sessions(d, 0x51, 0x52)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var seen [2]chan string
	for i, side := range d.sides {
		stream, err := epb.NewElectionClient(side.conn).Observe(ctx, &epb.LeaderRequest{Name: []byte("o")})
		d.must(err, side)
		seen[i] = make(chan string, 64)
		go func() {
			for {
				answer, err := stream.Recv()
				if err != nil {
					return
				}
				seen[i] <- side.show(answer)
			}
		}()
	}
	next := func(what string) {
		var texts [2]string
		for i := range seen {
			select {
			case texts[i] = <-seen[i]:
			case <-time.After(limit):
				texts[i] = silence
			}
		}
		d.same(what, texts)
	}
	time.Sleep(quiet / 4)
	d.call(campaign("o", 0x51, "first"))
	next("the first leader")
	d.call(campaign("o", 0x51, "again"))
	next("what it proclaims")
	second := d.begin(campaign("o", 0x52, "second"), "o/52")
	second.waits()
	d.call(&pb.LeaseRevokeRequest{ID: 0x51})
	second.ends()
	next("the second leader")
	d.call(del("o/52", ""))
	d.call(put("o/other", "no candidate of ours"))
	next("whoever has the first key")
}
