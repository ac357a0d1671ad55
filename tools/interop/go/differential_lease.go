package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var leaseDifferential = []differentialScenario{
	{"leases granted and revoked", leaseGrants},
	{"leases and their keys", leaseKeys},
	{"keep-alive streams", keepAlives},
	{"leases that expire", leasesThatExpire},
}

func leaseGrants(d *differential) {
	for _, request := range []*pb.LeaseGrantRequest{
		{ID: 1, TTL: 600}, {ID: 1, TTL: 600}, {ID: 2, TTL: 0}, {ID: 3, TTL: -5}, {ID: 4, TTL: 1}, {ID: 5, TTL: 2},
		{ID: 6, TTL: math.MinInt64}, {ID: 7, TTL: 9_000_000_000}, {ID: 8, TTL: 9_000_000_001}, {ID: 9, TTL: math.MaxInt64},
		{ID: math.MaxInt64, TTL: 6000}, {ID: 1, TTL: math.MaxInt64}, {ID: 1, TTL: 0},
	} {
		d.call(request)
		if request.ID > 1 && request.TTL < 60 {
			d.forget(request.ID)
		}
	}
	// Ids that the server chooses count only as chosen.
	var texts [2]string
	d.each(func(side *side) {
		lease := pb.NewLeaseClient(side.conn)
		answer, err := lease.LeaseGrant(context.Background(), &pb.LeaseGrantRequest{TTL: 60})
		d.must(err, side)
		positive := answer.ID > 0
		_, err = lease.LeaseRevoke(context.Background(), &pb.LeaseRevokeRequest{ID: answer.ID})
		d.must(err, side)
		answer.ID = 1
		texts[d.index(side)] = fmt.Sprint(positive, side.show(answer))
	})
	d.same("a grant without id", texts)
	d.call(&pb.LeaseRevokeRequest{ID: oldLease})
	d.call(&pb.LeaseRevokeRequest{})
	d.call(&pb.LeaseRevokeRequest{ID: -1})
	d.call(&pb.LeaseTimeToLiveRequest{ID: oldLease})
	d.call(&pb.LeaseTimeToLiveRequest{ID: oldLease, Keys: true})
	d.call(&pb.LeaseTimeToLiveRequest{})
	d.call(&pb.LeaseTimeToLiveRequest{ID: -7})
	d.call(&pb.LeaseTimeToLiveRequest{ID: 1})
	d.call(&pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
	d.call(&pb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
	d.leases()
	d.call(&pb.LeaseRevokeRequest{ID: 1})
	d.call(&pb.LeaseRevokeRequest{ID: 1})
	d.call(&pb.LeaseGrantRequest{ID: 1, TTL: 1000})
	d.leases()
}

// forget revokes a lease that might end by itself any moment, and compares nothing.
func (d *differential) forget(id int64) {
	d.each(func(side *side) {
		_, err := pb.NewLeaseClient(side.conn).LeaseRevoke(context.Background(), &pb.LeaseRevokeRequest{ID: id})
		if status.Code(err) != codes.NotFound {
			d.must(err, side)
		}
	})
}

// leases compares the leases of both sides; their order is that of their expiry in etcd.
func (d *differential) leases() {
	var texts [2]string
	d.each(func(side *side) {
		answer, err := pb.NewLeaseClient(side.conn).LeaseLeases(context.Background(), &pb.LeaseLeasesRequest{})
		d.must(err, side)
		slices.SortFunc(answer.Leases, func(a, b *pb.LeaseStatus) int { return int(min(1, max(-1, a.ID-b.ID))) })
		texts[d.index(side)] = side.show(answer)
	})
	d.same("LeaseLeases", texts)
}

func leaseKeys(d *differential) {
	for id := int64(1); id <= 3; id++ {
		d.call(&pb.LeaseGrantRequest{ID: id, TTL: 600})
		d.call(&pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	}
	attach := func(key string, lease int64) {
		d.call(&pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: lease})
	}
	keys := func() {
		for id := int64(1); id <= 3; id++ {
			var texts [2]string
			d.each(func(side *side) {
				answer, err := pb.NewLeaseClient(side.conn).LeaseTimeToLive(context.Background(),
					&pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
				d.must(err, side)
				// etcd keeps them in no order.
				slices.SortFunc(answer.Keys, func(a, b []byte) int { return strings.Compare(string(a), string(b)) })
				texts[d.index(side)] = side.show(answer)
			})
			d.same(fmt.Sprintf("keys of lease %d", id), texts)
		}
	}
	for i, key := range []string{"c", "a", "b", "d", "e"} {
		attach(key, int64(i%3)+1)
	}
	keys()
	attach("a", 1)
	attach("b", 0)
	keys()
	d.call(&pb.PutRequest{Key: []byte("a"), Value: []byte("w"), IgnoreLease: true})
	d.call(&pb.PutRequest{Key: []byte("c"), IgnoreValue: true, Lease: 3})
	keys()
	d.call(del("d", ""))
	keys()
	d.call(then(putOp("e", "detached"), &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte("f"), Lease: 2}}}))
	keys()
	d.call(get("\x00", "\x00"))
	for id := int64(1); id <= 3; id++ {
		d.call(&pb.LeaseRevokeRequest{ID: id})
		d.call(get("\x00", "\x00"))
		keys()
	}
	attach("a", 1)
	d.call(&pb.LeaseGrantRequest{ID: 1, TTL: 600})
	keys()
	// A deleted key is not attached any more.
	attach("a", 1)
	d.call(del("a", ""))
	d.call(put("a", "free"))
	d.call(&pb.LeaseRevokeRequest{ID: 1})
	d.call(get("a", ""))
}

func keepAlives(d *differential) {
	d.call(&pb.LeaseGrantRequest{ID: 1, TTL: 600})
	d.call(&pb.LeaseGrantRequest{ID: 2, TTL: 100})
	var texts [2]string
	d.each(func(side *side) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		stream, err := pb.NewLeaseClient(side.conn).LeaseKeepAlive(ctx)
		d.must(err, side)
		var text strings.Builder
		for _, id := range []int64{1, oldLease, 2, 0, -1, 1} {
			d.must(stream.Send(&pb.LeaseKeepAliveRequest{ID: id}), side)
			answer, err := stream.Recv()
			if err != nil {
				text.WriteString(errorText(err))
				break
			}
			text.WriteString(side.show(answer) + "\n")
		}
		_, err = pb.NewLeaseClient(side.conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 1})
		d.must(err, side)
		d.must(stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}), side)
		if answer, err := stream.Recv(); err == nil {
			text.WriteString(side.show(answer) + "\n")
		}
		d.must(stream.CloseSend(), side)
		_, err = stream.Recv()
		if err == io.EOF {
			text.WriteString("end")
		} else {
			text.WriteString(errorText(err))
		}
		texts[d.index(side)] = text.String()
	})
	d.same("a keep-alive stream", texts)
}

func leasesThatExpire(d *differential) {
	// Long enough for the puts.
	d.call(&pb.LeaseGrantRequest{ID: 1, TTL: 5})
	d.call(&pb.PutRequest{Key: []byte("a"), Lease: 1})
	d.call(&pb.PutRequest{Key: []byte("b"), Lease: 1})
	deadline := time.Now().Add(limit)
	d.each(func(side *side) {
		for time.Now().Before(deadline) {
			answer, err := pb.NewKVClient(side.conn).Range(context.Background(), get("a", ""))
			d.must(err, side)
			if answer.Count == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	d.call(get("\x00", "\x00"))
	d.leases()
	d.call(&pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
	d.call(&pb.LeaseRevokeRequest{ID: 1})
	d.call(&pb.PutRequest{Key: []byte("a"), Lease: 1})
}
