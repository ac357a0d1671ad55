package main

import (
	"context"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	epb "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	lpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// An errorRow is one error of the API. It is provoked in every way that is listed, on both servers, and each
// answer must have its code and text. What a single node cannot be brought to answer says why.
type errorRow struct {
	name string
	// err is the error as etcd's package declares it.
	err error
	// sent is the code on the wire where it is not the declared one.
	sent codes.Code
	ways []way
	// needs is a request without which the ways lead nowhere. A server that answers it by Unimplemented is not
	// asked further, and the table says so.
	needs *way
	never string
}

// A way to provoke an error.
type way struct {
	how string
	ask func(*asked) error
}

// asked is a server with a bounded context.
type asked struct {
	*side
	ctx context.Context
	// tokens are those of users who have logged in.
	tokens map[string]string
}

// Flags that the servers of the errors are started with, as the test does.
const (
	errorsTxnOps       = 16
	errorsRequestBytes = 8192
	// transportBytes is what a message may have above the limit of requests.
	transportBytes = 512 << 10
)

// runErrors provokes every error on both servers and prints the table of what was seen.
func runErrors(endpoints []string) int {
	d, err := connectBoth(endpoints)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var sides [2]*asked
	for i, side := range d.sides {
		ctx, cancel := context.WithTimeout(context.Background(), 4*limit)
		defer cancel()
		sides[i] = &asked{side, ctx, map[string]string{}}
		sides[i].prepare()
	}
	wrong := 0
	for _, row := range errorRows() {
		wrong += row.run(sides)
	}
	wrong += sides[tested].unserved()
	if wrong > 0 {
		fmt.Fprintf(os.Stderr, "%d answers are wrong\n", wrong)
		return 1
	}
	return 0
}

// runTimeouts asks both servers while their disk stands still: what needs it must end by the same error.
func runTimeouts(endpoints []string) int {
	// etcd cannot tell its status then.
	d, err := dialBoth(endpoints)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	expected := status.Convert(rpctypes.ErrGRPCTimeout)
	var group sync.WaitGroup
	var wrong atomic.Int32
	for _, request := range []proto.Message{
		put("k", "v"), del("k", ""), then(putOp("k", "v")), &pb.LeaseGrantRequest{TTL: 60}, &pb.CompactionRequest{Revision: 1},
	} {
		for _, side := range d.sides {
			group.Add(1)
			go func() {
				defer group.Done()
				ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
				defer cancel()
				s := &asked{side, ctx, nil}
				answer := status.Convert(s.call(proto.Clone(request)))
				if answer.Code() != expected.Code() || answer.Message() != expected.Message() {
					wrong.Add(1)
					fmt.Fprintf(os.Stderr, "%s: %s answers %s: %s\n", methodOf(request), side.name, answer.Code(), answer.Message())
				}
			}()
		}
	}
	group.Wait()
	if wrong.Load() > 0 {
		return 1
	}
	return 0
}

func errorRows() []errorRow {
	var rows []errorRow
	for _, set := range [][]errorRow{requestErrors, memberErrors, neverErrors, otherErrors(), authErrors} {
		rows = append(rows, set...)
	}
	return rows
}

// run provokes a row and returns how many answers are wrong.
func (r *errorRow) run(sides [2]*asked) int {
	expected := status.Convert(r.err)
	code := expected.Code()
	if r.sent != codes.OK {
		code = r.sent
	}
	fmt.Printf("%s\n  %s: %s\n", r.name, code, expected.Message())
	if (r.never == "") == (len(r.ways) == 0) {
		panic(r.name + ": either ways or a reason why there is none")
	}
	if r.never != "" {
		fmt.Printf("  never: %s\n", r.never)
		return 0
	}
	lacking := false
	if r.needs != nil {
		r.needs.ask(sides[reference])
		answer := status.Convert(r.needs.ask(sides[tested]))
		lacking = answer.Code() == codes.Unimplemented
		if lacking && !strings.HasPrefix(answer.Message(), "ringd: ") {
			fmt.Fprintf(os.Stderr, "%s: %s: Unimplemented without a name: %s\n", r.name, r.needs.how, answer.Message())
			return 1
		}
		if lacking {
			fmt.Printf("  later: %s\n", answer.Message())
		}
	}
	wrong := 0
	for _, way := range r.ways {
		for i, side := range sides {
			if i == tested && lacking {
				continue
			}
			answer := status.Convert(way.ask(side))
			if answer.Code() == code && answer.Message() == expected.Message() && len(answer.Details()) == 0 {
				continue
			}
			wrong++
			fmt.Fprintf(os.Stderr, "%s: %s: %s answers %s: %s %v\n",
				r.name, way.how, side.name, answer.Code(), answer.Message(), answer.Details())
		}
		word := "provoked"
		if lacking {
			word = "by etcd"
		}
		fmt.Printf("  %s: %s\n", word, way.how)
	}
	return wrong
}

// unserved lists the unary methods that a server refuses, each of which must be named; it returns how many are not.
func (s *asked) unserved() int {
	fmt.Println("methods that are not served")
	wrong := 0
	for service := range each(pb.File_rpc_proto.Services()) {
		for method := range each(service.Methods()) {
			if method.IsStreamingClient() || method.IsStreamingServer() {
				continue
			}
			path := fmt.Sprintf("/%s/%s", service.FullName(), method.Name())
			answer := status.Convert(served(path).ask(s))
			if answer.Code() != codes.Unimplemented {
				continue
			}
			fmt.Printf("  later: %s\n", answer.Message())
			if answer.Message() != "ringd: "+path+" is not supported yet" {
				fmt.Fprintf(os.Stderr, "%s is refused by: %s\n", path, answer.Message())
				wrong++
			}
		}
	}
	return wrong
}

// each goes through a list of descriptors.
func each[T any](list interface {
	Len() int
	Get(int) T
}) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range list.Len() {
			if !yield(list.Get(i)) {
				return
			}
		}
	}
}

// prepare gives a server what the ways start from.
func (s *asked) prepare() {
	s.must(s.call(&pb.LeaseGrantRequest{ID: 7, TTL: 6000}))
	for i := range 5 {
		s.must(s.call(put("k", fmt.Sprint(i))))
	}
	s.must(s.call(&pb.CompactionRequest{Revision: 4}))
}

func (s *asked) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", s.name, err))
	}
}

// call sends a unary request and returns its error.
func (s *asked) call(request proto.Message) error {
	_, err := s.answer(request)
	return err
}

func (s *asked) answer(request proto.Message) (proto.Message, error) {
	answer := answerOf(request)
	return answer, s.conn.Invoke(s.ctx, methodOf(request), request, answer)
}

// as is the same server asked with somebody's token.
func (s *asked) as(user string) *asked {
	return &asked{s.side, metadata.AppendToOutgoingContext(s.ctx, "token", s.tokens[user]), s.tokens}
}

// with is a way that sends a request.
func with(how string, request proto.Message) way {
	return way{how, func(s *asked) error { return s.call(request) }}
}

// served is what a method needs: to be there at all. It is asked with an empty message.
func served(method string) *way {
	return &way{method, func(s *asked) error {
		return s.conn.Invoke(s.ctx, method, &pb.RangeRequest{}, &pb.RangeResponse{})
	}}
}

// raw is a way that no gRPC library takes: headers of any bytes.
func raw(how, path string, request proto.Message, headers ...string) way {
	return way{how, func(s *asked) error {
		answer, err := s.post(path, framed(request), headers)
		s.must(err)
		var code int
		_, err = fmt.Sscan(answer.grpcStatus, &code)
		s.must(err)
		return status.Error(codes.Code(code), answer.grpcMessage)
	}}
}

// canceled is a way by a watch whose end says why. The reason travels without a code.
func canceled(how string, code codes.Code, create *pb.WatchCreateRequest, answers int) way {
	return way{how, func(s *asked) error {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
		s.must(err)
		s.must(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
		for range answers {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			if answer.Canceled {
				reason := answer.CancelReason
				if reason == "" && answer.CompactRevision > 0 {
					// What etcd's own client makes of it.
					reason = "etcdserver: mvcc: required revision has been compacted"
				}
				// Some reasons are whole errors as text.
				_, words, isError := strings.Cut(reason, " desc = ")
				if isError {
					reason = words
				}
				return status.Error(code, reason)
			}
		}
		return nil
	}}
}

// streamed is a way by a range whose answer comes in parts.
func streamed(how string, request *pb.RangeRequest) way {
	return way{how, func(s *asked) error {
		stream, err := pb.NewKVClient(s.conn).RangeStream(s.ctx, request)
		s.must(err)
		for {
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
	}}
}

// alarmed is a way by a request while an alarm is raised.
func alarmed(how string, alarm pb.AlarmType, request proto.Message) way {
	return way{how, func(s *asked) error {
		change := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: s.member, Alarm: alarm}
		s.must(s.call(change))
		answered := s.call(request)
		change.Action = pb.AlarmRequest_DEACTIVATE
		s.must(s.call(change))
		return answered
	}}
}

func lockOf(name string, lease int64) *lpb.LockRequest {
	return &lpb.LockRequest{Name: []byte(name), Lease: lease}
}

func leaderOf(name string) *epb.LeaderRequest { return &epb.LeaderRequest{Name: []byte(name)} }
