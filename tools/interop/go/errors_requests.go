package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

var large = strings.Repeat("x", errorsRequestBytes)

func puts(count int) []*pb.RequestOp {
	operations := make([]*pb.RequestOp, count)
	for i := range operations {
		operations[i] = putOp(fmt.Sprint(i), "")
	}
	return operations
}

func putRequestOp(request *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: request}}
}

// What is wrong with a request, or cannot be done in the state of the store.
var requestErrors = []errorRow{
	{name: "ErrGRPCEmptyKey", err: rpctypes.ErrGRPCEmptyKey, ways: []way{
		with("a put without a key", &pb.PutRequest{}),
		with("a range without a key", &pb.RangeRequest{RangeEnd: zero}),
		streamed("a streamed range without a key", &pb.RangeRequest{}),
		with("a delete without a key", &pb.DeleteRangeRequest{}),
		with("a comparison without a key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}),
		with("a put without a key in a nested transaction", then(txnOp(otherwise(putOp("", ""))))),
	}},
	{name: "ErrGRPCKeyNotFound", err: rpctypes.ErrGRPCKeyNotFound, ways: []way{
		with("a put that keeps the value of a key that is not there", &pb.PutRequest{Key: []byte("none"), IgnoreValue: true}),
		with("a put that keeps the lease of a key that is not there", &pb.PutRequest{Key: []byte("none"), IgnoreLease: true}),
		with("the same in a transaction", then(putRequestOp(&pb.PutRequest{Key: []byte("none"), IgnoreValue: true}))),
		with("an empty operation of a transaction", then(&pb.RequestOp{})),
	}},
	{name: "ErrGRPCValueProvided", err: rpctypes.ErrGRPCValueProvided, ways: []way{
		with("a put that keeps the value and has one", &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true}),
	}},
	{name: "ErrGRPCLeaseProvided", err: rpctypes.ErrGRPCLeaseProvided, ways: []way{
		with("a put that keeps the lease and has one", &pb.PutRequest{Key: []byte("k"), Lease: 7, IgnoreLease: true}),
	}},
	{name: "ErrGRPCTooManyOps", err: rpctypes.ErrGRPCTooManyOps, ways: []way{
		with("more operations than --max-txn-ops", then(puts(errorsTxnOps+1)...)),
		with("more operations if the comparisons fail", otherwise(puts(errorsTxnOps+1)...)),
		with("more comparisons", &pb.TxnRequest{Compare: make([]*pb.Compare, errorsTxnOps+1)}),
		with("more in a nested transaction than its parent leaves over", then(txnOp(then(puts(errorsTxnOps)...)))),
	}},
	{name: "ErrGRPCDuplicateKey", err: rpctypes.ErrGRPCDuplicateKey, ways: []way{
		with("two puts of one key", then(putOp("a", ""), putOp("a", ""))),
		with("a put of a key that the transaction deletes", then(delOp("a", "c"), putOp("b", ""))),
		with("the same in a nested transaction", then(putOp("b", ""), txnOp(then(delOp("a", "c"))))),
	}},
	{name: "ErrGRPCInvalidClientAPIVersion", err: rpctypes.ErrGRPCInvalidClientAPIVersion, ways: []way{
		raw("metadata client-api-version that is no UTF-8", "/etcdserverpb.KV/Range", get("k", ""), "client-api-version", "\xff"),
		raw("the same on a stream", "/etcdserverpb.Watch/Watch", &pb.WatchRequest{}, "client-api-version", "\xff"),
	}},
	{name: "ErrGRPCInvalidSortOption", err: rpctypes.ErrGRPCInvalidSortOption, ways: []way{
		with("an unknown order", &pb.RangeRequest{Key: []byte("k"), SortOrder: 3}),
		with("an unknown target", &pb.RangeRequest{Key: []byte("k"), SortTarget: 5}),
		with("an unknown target in a transaction", then(rangeOp(&pb.RangeRequest{Key: []byte("k"), SortTarget: -1}))),
	}},
	{name: "ErrGRPCCompacted", err: rpctypes.ErrGRPCCompacted, ways: []way{
		with("a range at a compacted revision", &pb.RangeRequest{Key: []byte("k"), Revision: 2}),
		streamed("a streamed range at a compacted revision", &pb.RangeRequest{Key: []byte("k"), Revision: 2}),
		with("a transaction that reads there", then(rangeOp(&pb.RangeRequest{Key: []byte("k"), Revision: 2}))),
		with("a compaction that has been made", &pb.CompactionRequest{Revision: 4}),
		with("a hash of a compacted revision", &pb.HashKVRequest{Revision: 2}),
		canceled("the end of a watch that starts there", codes.OutOfRange, &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2}, 2),
		canceled("a watch that starts below 0", codes.OutOfRange, &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: -1}, 1),
	}},
	{name: "ErrGRPCFutureRev", err: rpctypes.ErrGRPCFutureRev, ways: []way{
		with("a range at a revision to come", &pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40}),
		streamed("a streamed range there", &pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40}),
		with("a transaction that reads there", then(putOp("a", ""), rangeOp(&pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40}))),
		with("a compaction of a revision to come", &pb.CompactionRequest{Revision: 1 << 40}),
		with("a hash of a revision to come", &pb.HashKVRequest{Revision: 1 << 40}),
	}},
	{name: "ErrGRPCNoSpace", err: rpctypes.ErrGRPCNoSpace, ways: []way{
		alarmed("a put under the alarm NOSPACE", pb.AlarmType_NOSPACE, put("k", "")),
		alarmed("a transaction with a put", pb.AlarmType_NOSPACE, then(putOp("k", ""))),
		alarmed("a lease", pb.AlarmType_NOSPACE, &pb.LeaseGrantRequest{TTL: 100}),
	}},
	{name: "ErrGRPCCorrupt", err: rpctypes.ErrGRPCCorrupt, ways: []way{
		alarmed("a put under the alarm CORRUPT", pb.AlarmType_CORRUPT, put("k", "")),
		alarmed("a delete", pb.AlarmType_CORRUPT, del("none", "")),
		alarmed("a compaction", pb.AlarmType_CORRUPT, &pb.CompactionRequest{Revision: 5}),
		alarmed("the end of a lease", pb.AlarmType_CORRUPT, &pb.LeaseRevokeRequest{ID: 7}),
	}},
	{name: "ErrGRPCLeaseNotFound", err: rpctypes.ErrGRPCLeaseNotFound, ways: []way{
		with("a put with a lease that is not there", &pb.PutRequest{Key: []byte("k"), Lease: oldLease}),
		with("the same in a transaction", then(putRequestOp(&pb.PutRequest{Key: []byte("k"), Lease: oldLease}))),
		with("the end of a lease that is not there", &pb.LeaseRevokeRequest{ID: oldLease}),
	}},
	{name: "ErrGRPCLeaseExist", err: rpctypes.ErrGRPCLeaseExist, ways: []way{
		with("a lease with an id that is taken", &pb.LeaseGrantRequest{ID: 7, TTL: 100}),
	}},
	{name: "ErrGRPCLeaseTTLTooLarge", err: rpctypes.ErrGRPCLeaseTTLTooLarge, ways: []way{
		with("a lease of 9,000,000,001 seconds", &pb.LeaseGrantRequest{TTL: 9_000_000_001}),
	}},
	{name: "ErrGRPCRequestTooLarge", err: rpctypes.ErrGRPCRequestTooLarge, ways: []way{
		with("a put above --max-request-bytes", put("k", large)),
		with("a transaction above it", then(putOp("k", large))),
		with("a delete above it", del("k", large)),
	}},
	{name: "ErrGRPCBadLeaderTransferee", err: rpctypes.ErrGRPCBadLeaderTransferee, ways: []way{
		with("leadership for a member that is not there", &pb.MoveLeaderRequest{TargetID: 7}),
	}},
	{name: "ErrGRPCWrongDowngradeVersionFormat", err: rpctypes.ErrGRPCWrongDowngradeVersionFormat, ways: []way{
		with("a downgrade to no version", &pb.DowngradeRequest{Version: "x"}),
	}},
	{name: "ErrGRPCInvalidDowngradeTargetVersion", err: rpctypes.ErrGRPCInvalidDowngradeTargetVersion, ways: []way{
		with("a downgrade by two versions", &pb.DowngradeRequest{Version: "3.5"}),
	}},
	{name: "ErrGRPCDowngradeInProcess", err: rpctypes.ErrGRPCDowngradeInProcess,
		needs: &way{"a downgrade", func(s *asked) error {
			return s.call(&pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "3.6"})
		}},
		ways: []way{{"a downgrade while there is one", func(s *asked) error {
			answered := s.call(&pb.DowngradeRequest{Version: "3.6"})
			s.must(s.call(&pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}))
			return answered
		}}}},
}

// Errors of the table that no single node sends, or that nobody can see.
var neverErrors = []errorRow{
	{name: "ErrGRPCWatchCanceled", err: rpctypes.ErrGRPCWatchCanceled,
		never: "ends a stream whose client has gone; nobody is left to read it"},
	{name: "ErrGRPCClusterIDMismatch", err: rpctypes.ErrGRPCClusterIDMismatch,
		never: "etcd declares it and sends it nowhere on the client port"},
	{name: "ErrGRPCRequestTooManyRequests", err: rpctypes.ErrGRPCRequestTooManyRequests,
		never: "needs thousands of entries that are committed and not applied; sent as Unknown"},
	{name: "ErrGRPCNoLeader", err: rpctypes.ErrGRPCNoLeader, never: "a single node is its leader while it serves"},
	{name: "ErrGRPCNotLeader", err: rpctypes.ErrGRPCNotLeader, never: "a single node is its leader while it serves"},
	{name: "ErrGRPCLeaderChanged", err: rpctypes.ErrGRPCLeaderChanged, never: "a single node is its leader while it serves"},
	{name: "ErrGRPCNotCapable", err: rpctypes.ErrGRPCNotCapable,
		never: "only between a member's start and its first cluster version, before clients are served"},
	{name: "ErrGRPCStopped", err: rpctypes.ErrGRPCStopped,
		never: "etcd closes the connections before the loops that would answer it"},
	{name: "ErrGRPCTimeout", err: rpctypes.ErrGRPCTimeout,
		never: "not by a request alone; provoked by tests/frozen_disk.rs, whose disk stands still"},
	{name: "ErrGRPCTimeoutDueToLeaderFail", err: rpctypes.ErrGRPCTimeoutDueToLeaderFail, never: "needs a leader that was lost"},
	{name: "ErrGRPCTimeoutDueToConnectionLost", err: rpctypes.ErrGRPCTimeoutDueToConnectionLost, never: "needs peers"},
	{name: "ErrGRPCTimeoutWaitAppliedIndex", err: rpctypes.ErrGRPCTimeoutWaitAppliedIndex,
		never: "needs a node that commits and does not apply for seconds"},
	{name: "ErrGRPCUnhealthy", err: rpctypes.ErrGRPCUnhealthy, never: "needs peers that are not reached"},
	{name: "ErrGRPCNotSupportedForLearner", err: rpctypes.ErrGRPCNotSupportedForLearner, never: "a single node votes"},
	{name: "ErrGRPCClusterVersionUnavailable", err: rpctypes.ErrGRPCClusterVersionUnavailable,
		never: "only between a member's start and its first cluster version, before clients are served"},
	{name: "ErrGRPCNoInflightDowngrade", err: rpctypes.ErrGRPCNoInflightDowngrade,
		never: "etcd logs it and answers the request with success"},
	{name: "ErrGRPCCanceled", err: rpctypes.ErrGRPCCanceled, never: "answers a call whose client has gone"},
	{name: "ErrGRPCDeadlineExceeded", err: rpctypes.ErrGRPCDeadlineExceeded,
		never: "etcd sends the words of its gRPC library, see the deadline below"},
}

// byWords blanks the digits of an error: lengths of answers depend on ids.
func byWords(err error) error {
	found := status.Convert(err)
	words := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, found.Message())
	return status.Error(found.Code(), words)
}

// Errors that are not in the table.
func otherErrors() []errorRow {
	row := func(name string, code codes.Code, text string, ways ...way) errorRow {
		return errorRow{name: name, err: status.Error(code, text), ways: ways}
	}
	const unknown = codes.Unknown
	return []errorRow{
		row("not in the table: unknown method", unknown, "etcdserver: unknown method",
			with("an unknown action of a downgrade", &pb.DowngradeRequest{Action: 7})),
		row("not in the table: order of streams", codes.Unimplemented, "RangeStream does not support custom sort orders",
			streamed("a streamed range that goes down", &pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND})),
		row("not in the table: filters of streams", codes.Unimplemented, "RangeStream does not support revision filters",
			streamed("a streamed range with a lowest revision", &pb.RangeRequest{Key: []byte("k"), MinModRevision: 1})),
		row("not in the table: empty watch", unknown, "mvcc: watcher range is empty",
			canceled("a watch whose end is before its key", unknown, creation("b", "a"), 1)),
		row("not in the table: watch id", unknown, "mvcc: duplicate watch ID provided on the WatchStream", way{
			"a watch with an id that is taken", func(s *asked) error {
				stream, err := pb.NewWatchClient(s.conn).Watch(s.ctx)
				s.must(err)
				create := creation("k", "")
				create.WatchId = 5
				var reason string
				for range 2 {
					s.must(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
					answer, err := stream.Recv()
					s.must(err)
					reason = answer.CancelReason
				}
				return status.Error(unknown, reason)
			}}),
		row("not in the table: lost lease on a stream", codes.OK, "", way{
			"a keep-alive of a lease that is not there: a time to live of 0, no error", func(s *asked) error {
				stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(s.ctx)
				s.must(err)
				s.must(stream.Send(&pb.LeaseKeepAliveRequest{ID: oldLease}))
				answer, err := stream.Recv()
				if err == nil && answer.TTL != 0 {
					return errors.New("a lease that lives")
				}
				return err
			}}),
		row("not in the table: lock without its lease", unknown, "etcdserver: requested lease not found",
			with("a lock with a lease that is not there", lockOf("lock", oldLease)),
			with("a candidate with a lease that is not there", campaign("election", oldLease, ""))),
		row("not in the table: no leader", unknown, "election: no leader",
			with("the leader of an election that nobody stands in", leaderOf("election"))),
		row("not in the table: not leader", unknown, "election: not leader",
			with("a proclamation by one who does not lead", &epb.ProclaimRequest{
				Leader: &epb.LeaderKey{Name: []byte("e"), Key: []byte("e/1"), Rev: 1, Lease: 7}})),
		row("not in the table: leader of a request", unknown, `"leader" field must be provided`,
			with("a proclamation by nobody", &epb.ProclaimRequest{}),
			with("a resignation by nobody", &epb.ResignRequest{})),
		row("not in the table: session of a lock", unknown, "mutex: session is expired", way{
			"a lock whose lease ends while it waits", func(s *asked) error {
				s.must(s.call(&pb.LeaseGrantRequest{ID: 21, TTL: 6000}))
				s.must(s.call(&pb.LeaseGrantRequest{ID: 22, TTL: 6000}))
				s.must(s.call(lockOf("l", 21)))
				ended := make(chan error, 1)
				go func() { ended <- s.call(lockOf("l", 22)) }()
				s.until("l/16")
				s.must(s.call(&pb.LeaseRevokeRequest{ID: 22}))
				s.must(s.call(&pb.LeaseRevokeRequest{ID: 21}))
				return <-ended
			}}),
		row("not in the table: request above the transport's limit", codes.ResourceExhausted,
			fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", errorsRequestBytes+transportBytes+1, errorsRequestBytes+transportBytes),
			way{"a put of --max-request-bytes and 512 KiB and one", func(s *asked) error {
				request := put("k", "")
				request.Value = make([]byte, errorsRequestBytes+transportBytes-6)
				return s.call(request)
			}}),
		row("not in the table: answer above the client's limit", codes.ResourceExhausted, "grpc: received message larger than max ( vs. )",
			way{"a range whose client takes ten bytes", func(s *asked) error {
				return byWords(s.conn.Invoke(s.ctx, "/etcdserverpb.KV/Range", get("k", ""), &pb.RangeResponse{}, grpc.MaxCallRecvMsgSize(10)))
			}}),
		row("not in the table: deadline", codes.DeadlineExceeded, "context deadline exceeded",
			raw("a deadline that has passed", "/etcdserverpb.KV/Range", get("k", ""), "grpc-timeout", "1n")),
		row("not in the table: service of health", codes.NotFound, "unknown service", way{
			"the health of a service that is not there", func(s *asked) error {
				_, err := health.NewHealthClient(s.conn).Check(s.ctx, &health.HealthCheckRequest{Service: "none"})
				return err
			}}),
		row("not in the table: method of a service", codes.Unimplemented, "unknown method Nothing for service etcdserverpb.KV",
			*served("/etcdserverpb.KV/Nothing")),
		row("not in the table: service", codes.Unimplemented, "unknown service etcdserverpb.Nothing",
			*served("/etcdserverpb.Nothing/Range")),
	}
}

// until waits for a key.
func (s *asked) until(key string) {
	for {
		answer, err := pb.NewKVClient(s.conn).Range(s.ctx, get(key, ""))
		s.must(err)
		if answer.Count > 0 {
			return
		}
		if s.ctx.Err() != nil {
			panic(context.Cause(s.ctx))
		}
	}
}
