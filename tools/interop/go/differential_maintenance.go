package main

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

var maintenanceDifferential = []differentialScenario{
	{"members, status, health", clusterState},
	{"defragmentation, leadership, downgrades", upkeep},
	{"alarms raised and cleared", alarms},
	{"requests without space", withoutSpace},
	{"requests on a corrupt cluster", withCorruption},
}

func clusterState(d *differential) {
	d.call(&pb.MemberListRequest{})
	d.call(&pb.MemberListRequest{Linearizable: true})
	d.call(&pb.StatusRequest{})
	d.call(put("a", "b"))
	d.call(&pb.StatusRequest{})
	for _, service := range []string{"", "etcdserverpb.KV", "nothing"} {
		var texts, first [2]string
		d.each(func(side *side) {
			client := health.NewHealthClient(side.conn)
			index := d.index(side)
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			answer, err := client.Check(ctx, &health.HealthCheckRequest{Service: service})
			texts[index] = textOrError(answer, err)
			stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: service})
			d.must(err, side)
			answer, err = stream.Recv()
			first[index] = textOrError(answer, err)
		})
		d.same("health of "+service, texts)
		d.same("health watch of "+service, first)
	}
	var lists [2]string
	d.each(func(side *side) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		answer, err := health.NewHealthClient(side.conn).List(ctx, &health.HealthListRequest{})
		lists[d.index(side)] = textOrError(answer, err)
	})
	d.same("health list", lists)
}

func upkeep(d *differential) {
	d.call(&pb.DefragmentRequest{})
	d.call(&pb.MoveLeaderRequest{})
	d.call(&pb.MoveLeaderRequest{TargetID: 7})
	const validate, cancel = pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_CANCEL
	for _, version := range []string{
		"3.6", "3.6.0", "3.6.9", "3.7", "3.7.0", "3.5", "3.8", "2.3", "", "3", "x", "3.6.x", "3.6.0.0", "3.x", "-3.6",
		"3.6.0-rc.1", "3.6-rc.1", "3.6.0+build", " 3.6", "03.6", "3.06", "3.6.",
	} {
		d.call(&pb.DowngradeRequest{Action: validate, Version: version})
	}
	d.call(&pb.DowngradeRequest{Action: cancel})
	d.call(&pb.DowngradeRequest{Action: 7})
}

func textOrError(answer proto.Message, err error) string {
	if err != nil {
		return errorText(err)
	}
	return compact(answer)
}

func alarms(d *differential) {
	ask := func(action pb.AlarmRequest_AlarmAction, member uint64, alarm pb.AlarmType) {
		d.call(&pb.AlarmRequest{Action: action, MemberID: member, Alarm: alarm})
	}
	const raise, clear, list = pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE, pb.AlarmRequest_GET
	lists := func() {
		for _, alarm := range []pb.AlarmType{pb.AlarmType_NONE, pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			for _, member := range []uint64{0, 7} {
				ask(list, member, alarm)
			}
		}
		d.call(&pb.StatusRequest{})
	}
	lists()
	for _, member := range []uint64{7, 0, 9} {
		for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			ask(clear, member, alarm)
			ask(raise, member, alarm)
			ask(raise, member, alarm)
			lists()
			d.http("GET", "/health", "")
			ask(clear, 0, alarm)
			ask(clear, member, pb.AlarmType_NONE)
			lists()
			ask(clear, member+1, alarm)
			ask(clear, member, alarm)
			ask(clear, member, alarm)
		}
	}
	ask(raise, 7, pb.AlarmType_NOSPACE)
	ask(raise, 9, pb.AlarmType_NOSPACE)
	ask(raise, 9, pb.AlarmType_CORRUPT)
	lists()
	// Of several alarms etcd names any.
	for _, query := range []string{"?exclude=NOSPACE", "?exclude=CORRUPT", "?exclude=NOSPACE&exclude=CORRUPT",
		"?exclude=NOSPACE&serializable=true", "?exclude=%4EOSPACE&exclude=CORRUPT", "?%65xclude=NOSPACE&exclude=CORRUPT", "?exclude=NOSPACE&exclude="} {
		d.http("GET", "/health"+query, "")
	}
	ask(clear, 7, pb.AlarmType_NOSPACE)
	lists()
	ask(clear, 0, pb.AlarmType_NONE)
	lists()
	ask(clear, 9, pb.AlarmType_NOSPACE)
	ask(clear, 9, pb.AlarmType_CORRUPT)
	lists()
	ask(list, 0, 9)
	ask(clear, 0, 9)
	ask(list, 0, -1)
	ask(clear, 0, pb.AlarmType_NONE)
	lists()
}

// everyKind sends one request of each kind, some of which grow the store.
// With several alarms etcd's health names any of them.
func everyKind(d *differential, first int64, several bool) {
	d.call(get("a", "z"))
	serializable := get("a", "z")
	serializable.Serializable = true
	d.call(serializable)
	d.call(put("a", "again"))
	d.call(&pb.PutRequest{Key: []byte("a"), IgnoreValue: true})
	d.call(&pb.PutRequest{Key: []byte("missing"), IgnoreValue: true})
	d.call(&pb.PutRequest{Key: []byte("a"), Lease: oldLease})
	d.call(&pb.PutRequest{})
	d.call(then(getOp("a", "")))
	d.call(then(putOp("a", "in a txn")))
	d.call(&pb.TxnRequest{Failure: []*pb.RequestOp{putOp("a", "not executed")}})
	d.call(then(txnOp(then(putOp("a", "nested")))))
	d.call(then(txnOp(then(getOp("a", "")))))
	d.call(then(delOp("b", ""), getOp("a", "")))
	d.call(otherwise(putOp("a", "1"), getOp("a", "")))
	d.call(then(putOp("a", "1"), rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40})))
	d.call(then(delOp("missing", ""), rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40})))
	d.call(del("c", ""))
	d.call(&pb.LeaseGrantRequest{ID: 500, TTL: 6000})
	d.call(&pb.LeaseGrantRequest{ID: 77, TTL: 6000})
	d.call(&pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	d.leases()
	d.call(&pb.CompactionRequest{Revision: first})
	d.call(&pb.CompactionRequest{Revision: first})
	d.call(&pb.LeaseRevokeRequest{ID: oldLease})
	d.call(&pb.LeaseRevokeRequest{ID: 500})
	d.call(&pb.MemberListRequest{Linearizable: true})
	d.call(&pb.StatusRequest{})
	if !several {
		d.http("GET", "/health", "")
		d.http("GET", "/health?serializable=true", "")
	}
	w := d.watch()
	old := creation("a", "z")
	old.StartRevision = first
	w.create(old, 1)
	w.drain(fmt.Sprintf("history from %d", first))
	w.cancel()
	d.call(get("a", "z"))
}

func withoutSpace(d *differential) {
	first, _ := sample(d)
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	everyKind(d, first+2, false)
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	everyKind(d, first+3, false)
}

func withCorruption(d *differential) {
	first, _ := sample(d)
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_CORRUPT})
	everyKind(d, first+2, false)
	d.call(&pb.LeaseRevokeRequest{ID: 77})
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	everyKind(d, first+2, true)
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_CORRUPT})
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	everyKind(d, first+3, false)
}
