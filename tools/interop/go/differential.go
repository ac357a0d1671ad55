package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// differential sends the same requests to two servers and compares their answers field by field.
// Ids that a server chooses, terms, indices and sizes count only as present or absent.
type differential struct {
	sides     [2]*side
	scenario  string
	compared  int
	different int
}

// side is one of the two servers.
type side struct {
	name     string
	endpoint string
	conn     *grpc.ClientConn
	cluster  uint64
	member   uint64
	// began is when the scenario did.
	began time.Time
}

// differentialScenario is a named sequence of requests that starts on an empty store.
type differentialScenario struct {
	name string
	run  func(*differential)
}

const (
	tested    = 0
	reference = 1
	// silence stands for an answer that did not come.
	silence = "(silence)"
	// shownBytes bounds what is printed of an answer.
	shownBytes = 700
)

// runDifferential compares the server at endpoints[0] with the one at endpoints[1]; a third argument
// seeds the random scenarios, a fourth is the number of their operations, a fifth chooses scenarios.
func runDifferential(arguments []string) int {
	if len(arguments) < 2 {
		fmt.Fprintln(os.Stderr, "usage: scenarios differential ENDPOINT REFERENCE [SEED [OPERATIONS [NAME]]]")
		return 2
	}
	d, err := connectBoth(arguments)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	number := func(at int, otherwise int64) int64 {
		if len(arguments) <= at {
			return otherwise
		}
		value, err := strconv.ParseInt(arguments[at], 10, 64)
		if err != nil {
			panic(err)
		}
		return value
	}
	random := randomScenarios(number(2, 1), int(number(3, 3000)))
	for _, set := range [][]differentialScenario{
		kvDifferential, txnDifferential, leaseDifferential, watchDifferential,
		maintenanceDifferential, lockDifferential, wireDifferential, random,
	} {
		for _, scenario := range set {
			if len(arguments) > 4 && !strings.Contains(scenario.name, arguments[4]) {
				continue
			}
			d.try(scenario)
		}
	}
	fmt.Printf("%d answers compared, %d differ\n", d.compared, d.different)
	if d.different > 0 {
		return 1
	}
	return 0
}

// connectBoth opens connections to both servers and asks for their ids.
func connectBoth(endpoints []string) (*differential, error) {
	d, err := dialBoth(endpoints)
	if err != nil {
		return nil, err
	}
	for _, side := range d.sides {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		answer, err := pb.NewMaintenanceClient(side.conn).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side.endpoint, err)
		}
		side.cluster = answer.Header.ClusterId
		side.member = answer.Header.MemberId
	}
	return d, nil
}

// dialBoth opens connections to both servers and asks nothing.
func dialBoth(endpoints []string) (*differential, error) {
	d := &differential{}
	for i, name := range []string{"tested", "reference"} {
		conn, err := grpc.NewClient(endpoints[i],
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(
				grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
		if err != nil {
			return nil, err
		}
		d.sides[i] = &side{name: name, endpoint: endpoints[i], conn: conn}
	}
	return d, nil
}

func (d *differential) try(scenario differentialScenario) {
	begin, compared, different := time.Now(), d.compared, d.different
	d.scenario = scenario.name
	d.fresh()
	for _, side := range d.sides {
		side.began = time.Now()
	}
	scenario.run(d)
	word := "ok    "
	if d.different > different {
		word = "FAILED"
	}
	fmt.Printf("%s %s (%d answers, %d ms)\n", word, scenario.name, d.compared-compared,
		time.Since(begin).Milliseconds())
}

// fresh empties both stores and brings them to the same revision, so that one difference does not
// make everything after it differ.
func (d *differential) fresh() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	var revisions [2]int64
	for i, side := range d.sides {
		kv, lease := pb.NewKVClient(side.conn), pb.NewLeaseClient(side.conn)
		maintenance := pb.NewMaintenanceClient(side.conn)
		alarms, err := maintenance.Alarm(ctx, &pb.AlarmRequest{})
		d.must(err, side)
		for _, raised := range alarms.Alarms {
			_, err := maintenance.Alarm(ctx, &pb.AlarmRequest{
				Action: pb.AlarmRequest_DEACTIVATE, MemberID: raised.MemberID, Alarm: raised.Alarm})
			d.must(err, side)
		}
		leases, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		d.must(err, side)
		for _, found := range leases.Leases {
			_, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: found.ID})
			if status.Code(err) != codes.NotFound {
				d.must(err, side)
			}
		}
		answer, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: zero, RangeEnd: zero})
		d.must(err, side)
		revisions[i] = answer.Header.Revision
	}
	for i, side := range d.sides {
		kv := pb.NewKVClient(side.conn)
		for revisions[i] < max(revisions[0], revisions[1]) {
			// A put of no lasting effect, then its deletion if there is room for both.
			key := []byte("pad")
			if answer, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}); err == nil && answer.Deleted > 0 {
				revisions[i] = answer.Header.Revision
				continue
			}
			answer, err := kv.Put(ctx, &pb.PutRequest{Key: key})
			d.must(err, side)
			revisions[i] = answer.Header.Revision
		}
	}
	// The key that is left over, if any, is put on both.
	d.each(func(side *side) {
		kv := pb.NewKVClient(side.conn)
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("pad")})
		d.must(err, side)
		_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("pad")})
		d.must(err, side)
	})
}

func (d *differential) must(err error, side *side) {
	if err != nil {
		panic(fmt.Sprintf("%s: %s: %v", d.scenario, side.name, err))
	}
}

// each runs something on both sides at once.
func (d *differential) each(run func(*side)) {
	var group sync.WaitGroup
	for _, side := range d.sides {
		group.Add(1)
		go func() {
			defer group.Done()
			run(side)
		}()
	}
	group.Wait()
}

// same compares two texts that must be equal.
func (d *differential) same(what string, answers [2]string) {
	d.compared++
	if strings.Contains(answers[reference], silence) {
		panic(d.scenario + ": the reference does not answer: " + what)
	}
	if answers[tested] == answers[reference] {
		return
	}
	d.different++
	fmt.Printf("DIFFERENT %s: %s\n  %-9s %s\n  %-9s %s\n", d.scenario, shorten(what),
		d.sides[tested].name, around(answers[tested], answers[reference]),
		d.sides[reference].name, around(answers[reference], answers[tested]))
}

// around shows a long text where it begins to differ from another.
func around(text, other string) string {
	at := 0
	for at < len(text) && at < len(other) && text[at] == other[at] {
		at++
	}
	if len(text) <= shownBytes || at < shownBytes/2 {
		return shorten(text)
	}
	return fmt.Sprintf("…[%d] %s", at, shorten(text[at-shownBytes/4:]))
}

func shorten(text string) string {
	if len(text) <= shownBytes {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes)", text[:shownBytes], len(text))
}

// call sends one unary request to both sides and compares the answers or errors; it returns the
// answers, nil where the call failed.
func (d *differential) call(request proto.Message, options ...callOption) [2]proto.Message {
	setup := callSetup{method: methodOf(request), timeout: limit}
	for _, option := range options {
		option(&setup)
	}
	var texts [2]string
	var answers [2]proto.Message
	d.each(func(side *side) {
		index := d.index(side)
		ctx, cancel := context.WithTimeout(context.Background(), setup.timeout)
		defer cancel()
		if setup.context != nil {
			ctx = setup.context(ctx)
		}
		answer := answerOf(request)
		err := side.conn.Invoke(ctx, setup.method, proto.Clone(request), answer, setup.options...)
		if err != nil {
			texts[index] = errorText(err)
			return
		}
		answers[index] = answer
		texts[index] = side.show(answer)
	})
	d.same(setup.method+" "+compact(request), texts)
	return answers
}

// revision is that of the tested side, which equals the other one's as long as nothing differs.
func (d *differential) revision() int64 {
	answer, err := pb.NewKVClient(d.sides[reference].conn).Range(context.Background(),
		&pb.RangeRequest{Key: []byte("revision"), Serializable: true})
	d.must(err, d.sides[reference])
	return answer.Header.Revision
}

func (d *differential) index(which *side) int {
	if which == d.sides[tested] {
		return tested
	}
	return reference
}

type callSetup struct {
	method  string
	timeout time.Duration
	context func(context.Context) context.Context
	options []grpc.CallOption
}

type callOption func(*callSetup)

func withMethod(method string) callOption { return func(s *callSetup) { s.method = method } }

func withTimeout(timeout time.Duration) callOption {
	return func(s *callSetup) { s.timeout = timeout }
}

func withContext(change func(context.Context) context.Context) callOption {
	return func(s *callSetup) { s.context = change }
}

func withOption(option grpc.CallOption) callOption {
	return func(s *callSetup) { s.options = append(s.options, option) }
}

// methodOf finds the method that takes a request by the names of the messages.
func methodOf(request proto.Message) string {
	descriptor := request.ProtoReflect().Descriptor()
	method := strings.TrimSuffix(string(descriptor.Name()), "Request")
	switch descriptor.ParentFile().Package() {
	case "v3lockpb":
		return "/v3lockpb.Lock/" + method
	case "v3electionpb":
		return "/v3electionpb.Election/" + method
	}
	service := map[string]string{
		"Range": "KV", "Put": "KV", "DeleteRange": "KV", "Txn": "KV", "Compaction": "KV",
		"LeaseGrant": "Lease", "LeaseRevoke": "Lease", "LeaseTimeToLive": "Lease", "LeaseLeases": "Lease",
		"MemberList": "Cluster", "Alarm": "Maintenance", "Status": "Maintenance",
		"Defragment": "Maintenance", "MoveLeader": "Maintenance", "Downgrade": "Maintenance",
		"HashKV": "Maintenance",
	}[method]
	if method == "Compaction" {
		method = "Compact"
	}
	return "/etcdserverpb." + service + "/" + method
}

// answerOf makes an empty message of the type that answers a request.
func answerOf(request proto.Message) proto.Message {
	name := strings.TrimSuffix(string(request.ProtoReflect().Descriptor().FullName()), "Request") + "Response"
	found, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		return &pb.RangeResponse{}
	}
	return found.New().Interface()
}

// errorText is a gRPC error with its code, text and details.
func errorText(err error) string {
	found := status.Convert(err)
	return fmt.Sprintf("%s: %s %v", found.Code(), found.Message(), found.Details())
}

func compact(message proto.Message) string {
	if proto.Size(message) > 4*shownBytes {
		return fmt.Sprintf("(%d bytes)", proto.Size(message))
	}
	return prototext.MarshalOptions{}.Format(message)
}

var addresses = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// show is an answer as text, without what legitimately differs between two servers.
func (s *side) show(answer proto.Message) string {
	shown := proto.Clone(answer)
	if lease, ok := shown.(*pb.LeaseTimeToLiveResponse); ok && lease.TTL > 0 {
		// The seconds that have passed are whole ones, and their number differs by one now and then.
		passed := lease.GrantedTTL - lease.TTL
		if 0 <= passed && passed <= int64(time.Since(s.began).Seconds())+1 {
			lease.TTL = lease.GrantedTTL
		}
	}
	s.level(shown.ProtoReflect())
	return prototext.MarshalOptions{AllowPartial: true, EmitUnknown: true}.Format(shown)
}

// Fields of which only the presence counts.
var presence = map[protoreflect.Name]bool{
	"raft_term": true, "dbSize": true, "dbSizeInUse": true, "raftIndex": true, "raftTerm": true,
	"raftAppliedIndex": true,
}

// level replaces ids of this server by fixed ones, in a message and all it contains.
func (s *side) level(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsList() && field.Kind() == protoreflect.MessageKind:
			list := value.List()
			texts := make([]string, list.Len())
			for i := range list.Len() {
				s.level(list.Get(i).Message())
				texts[i] = compact(list.Get(i).Message().Interface())
			}
			if field.Name() == "alarms" {
				// etcd lists alarms in no order.
				sortBy(list, texts)
			}
		case field.IsList() && field.Kind() == protoreflect.StringKind:
			list := value.List()
			for i := range list.Len() {
				text := addresses.ReplaceAllString(list.Get(i).String(), "ADDRESS")
				text = strings.ReplaceAll(text, strconv.FormatUint(s.member, 10), "MEMBER")
				// How many blanks separate the fields of a message as text is chance.
				list.Set(i, protoreflect.ValueOfString(strings.ReplaceAll(text, "  ", " ")))
			}
			if field.Name() == "errors" {
				texts := make([]string, list.Len())
				for i := range texts {
					texts[i] = list.Get(i).String()
				}
				sortBy(list, texts)
			}
		case field.IsList():
		case field.Kind() == protoreflect.MessageKind:
			s.level(value.Message())
		case presence[field.Name()]:
			message.Set(field, one(field.Kind()))
		case field.Kind() == protoreflect.Uint64Kind && value.Uint() == s.member:
			message.Set(field, protoreflect.ValueOfUint64(2))
		case field.Kind() == protoreflect.Uint64Kind && value.Uint() == s.cluster:
			message.Set(field, protoreflect.ValueOfUint64(3))
		}
		return true
	})
}

// sortBy orders a list by what its elements are as text.
func sortBy(list protoreflect.List, texts []string) {
	for end := list.Len(); end > 1; end-- {
		for i := range end - 1 {
			if texts[i] > texts[i+1] {
				texts[i], texts[i+1] = texts[i+1], texts[i]
				first, second := list.Get(i), list.Get(i+1)
				if list.IsValid() {
					clone := cloneValue(first)
					list.Set(i, cloneValue(second))
					list.Set(i+1, clone)
				}
			}
		}
	}
}

func cloneValue(value protoreflect.Value) protoreflect.Value {
	if message, ok := value.Interface().(protoreflect.Message); ok {
		return protoreflect.ValueOfMessage(proto.Clone(message.Interface()).ProtoReflect())
	}
	return value
}

func one(kind protoreflect.Kind) protoreflect.Value {
	if kind == protoreflect.Int64Kind {
		return protoreflect.ValueOfInt64(1)
	}
	return protoreflect.ValueOfUint64(1)
}

// http sends a plain request to both sides and compares status, headers that matter and body.
func (d *differential) http(method, target, body string) {
	var texts [2]string
	d.each(func(side *side) {
		request, err := http.NewRequest(method, "http://"+side.endpoint+target, strings.NewReader(body))
		d.must(err, side)
		client := http.Client{Timeout: limit, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
		answer, err := client.Do(request)
		d.must(err, side)
		defer answer.Body.Close()
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s type=%q allow=%q length=%d nosniff=%q cors=%q methods=%q\n", answer.Proto, answer.Status,
			answer.Header.Get("Content-Type"), answer.Header.Get("Allow"), answer.ContentLength,
			answer.Header.Get("X-Content-Type-Options"), answer.Header.Get("Access-Control-Allow-Origin"),
			answer.Header.Get("Access-Control-Allow-Methods"))
		fmt.Fprintf(&text, "%q", readAll(answer.Body))
		texts[d.index(side)] = text.String()
	})
	d.same(method+" "+target, texts)
}
