package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // Lets calls ask for compression.
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

var wireDifferential = []differentialScenario{
	{"metadata", callMetadata},
	{"compressed requests", compressedCalls},
	{"large requests", largeRequests},
	{"deadlines", deadlines},
	{"methods that do not exist", unknownMethods},
	{"frames and messages that are wrong", brokenMessages},
	{"plain http", plainHTTP},
}

func withMetadata(pairs ...string) callOption {
	return withContext(func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, pairs...)
	})
}

func callMetadata(d *differential) {
	for _, pairs := range [][]string{
		{"hasleader", "true"}, {"hasleader", "false"}, {"hasleader", ""}, {"hasleader", "no", "hasleader", "true"},
		{"client-api-version", "3.7.3"}, {"client-api-version", ""}, {"client-api-version", "not a version"},
		{"token", "unknown"}, {"token", ""}, {"authorization", "Bearer x"}, {"authorization", "x"},
		{"grpcgateway-accept", "x"}, {"anything", "at all"},
	} {
		d.call(get("a", ""), withMetadata(pairs...))
		d.call(&pb.MemberListRequest{}, withMetadata(pairs...))
		w := d.watch(withMetadata(pairs...))
		w.create(creation("a", ""), 1)
		w.cancel()
	}
	body := framed(get("a", ""))
	for _, header := range []string{"client-api-version", "hasleader", "token", "anything"} {
		for _, value := range []string{"\xff\xfe", "\xc3\xa9", "3.7\x80"} {
			d.raw("/etcdserverpb.KV/Range", body, header, value)
		}
	}
	d.raw("/etcdserverpb.Watch/Watch", framed(&pb.WatchRequest{}), "client-api-version", "\xff")
	d.raw("/etcdserverpb.KV/Range", body, "some-bin", "AAECAw==")
	// Up to 64 KiB, which is what a server of ours takes.
	for _, bytes := range []int{4 << 10, 16 << 10, 60 << 10} {
		d.raw("/etcdserverpb.KV/Range", body, "large", strings.Repeat("x", bytes))
		d.call(get("a", ""), withMetadata("token", strings.Repeat("x", bytes)))
	}
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("x-%d", i), "value")
	}
	d.raw("/etcdserverpb.KV/Range", body, many...)
}

func compressedCalls(d *differential) {
	d.call(put("a", strings.Repeat("value ", 1000)), withOption(grpc.UseCompressor("gzip")))
	d.call(get("a", ""), withOption(grpc.UseCompressor("gzip")))
	d.call(then(getOp("a", "")), withOption(grpc.UseCompressor("gzip")))
	encoding.RegisterCompressor(madeUp{})
	d.call(get("a", ""), withOption(grpc.UseCompressor("made-up")))
	w := d.watch(withOption(grpc.UseCompressor("gzip")))
	w.create(creation("a", ""), 1)
	w.cancel()
	d.call(put("big", strings.Repeat("x", 3<<20)), withOption(grpc.UseCompressor("gzip")))
	d.call(put("big", strings.Repeat("x", 1700<<10)), withOption(grpc.UseCompressor("gzip")))
}

// madeUp is a compression that no server knows.
type madeUp struct{}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func (madeUp) Compress(w io.Writer) (io.WriteCloser, error)   { return nopWriteCloser{w}, nil }
func (madeUp) Decompress(reader io.Reader) (io.Reader, error) { return reader, nil }
func (madeUp) Name() string                                   { return "made-up" }

func largeRequests(d *differential) {
	value := func(bytes int) *pb.PutRequest { return put("large", strings.Repeat("x", bytes)) }
	for _, bytes := range []int{1<<20 + 1, 1536<<10 - 64, 1536 << 10, 1537 << 10, 2<<20 - 14, 2<<20 - 13, 2<<20 - 12, 2<<20 - 11, 2 << 20, 3 << 20} {
		d.call(value(bytes))
		count := get("large", "")
		count.CountOnly = true
		d.call(count)
	}
	wide := strings.Repeat("x", 1600<<10)
	d.call(then(putOp("large", wide)))
	d.call(then(putOp("large", wide), putOp("large", "")))
	d.call(then(putOp("", wide)))
	d.call(&pb.PutRequest{Value: []byte(wide)})
	d.call(&pb.PutRequest{Key: []byte("k"), Value: []byte(wide), Lease: oldLease})
	d.call(get("a", wide))
	d.call(get(wide, ""))
	d.call(del("a", wide))
	d.call(del(wide, ""))
	d.call(then(getOp(wide, "")))
	d.call(then(txnOp(then(getOp(wide, "")))))
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte(wide)}}, Success: []*pb.RequestOp{getOp("a", "")}})
	d.call(&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), TargetUnion: &pb.Compare_Value{Value: []byte(wide)}, Target: pb.Compare_VALUE}}})
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	d.call(value(1600 << 10))
	d.call(&pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE})
	w := d.watch()
	w.create(creation("a", wide), 1)
	w.create(creation("a", strings.Repeat("x", 3<<20)), 1)
	w.cancel()
	d.call(get("large", ""))
}

func deadlines(d *differential) {
	body := framed(get("a", ""))
	for _, timeout := range []string{"0n", "1n", "10S", "1H", "99999999H", "99999999M", "99999999S"} {
		d.raw("/etcdserverpb.KV/Range", body, "grpc-timeout", timeout)
		d.raw("/etcdserverpb.KV/Put", framed(put("timed", timeout)), "grpc-timeout", timeout)
	}
	for _, timeout := range []string{"100000000S", "-1S", "1X", "S", "1", "", "1.5S", " 1S"} {
		d.rawCode("/etcdserverpb.KV/Range", body, "grpc-timeout", timeout)
	}
	d.call(get("timed", ""))
	w := d.watch(withContext(func(ctx context.Context) context.Context {
		short, stop := context.WithTimeout(ctx, time.Second)
		context.AfterFunc(short, stop)
		return short
	}))
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: creation("a", "")}})
	w.expectEnd("the deadline of a stream")
}

func unknownMethods(d *differential) {
	body := framed(get("a", ""))
	for _, path := range []string{
		"/etcdserverpb.KV/Get", "/etcdserverpb.KV/range", "/etcdserverpb.KV/", "/etcdserverpb.Nothing/Range",
		"/KV/Range", "/v4.Nothing/Do", "/etcdserverpb.Watch/Nothing", "/grpc.health.v1.Health/Nothing",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/a/b/c", "/nothing", "/", "/etcdserverpb.KV/Range/",
		"/etcdserverpb.KV/Range?x=y", "/etcdserverpb.KV/%52ange", "//etcdserverpb.KV/Range",
	} {
		d.raw(path, body)
	}
	for _, kind := range []string{"application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+json",
		"application/grpc+made-up", "APPLICATION/GRPC", "application/grpc-web", "application/grpcx", "application/json", "text/plain", ""} {
		compared := d.rawCode
		if !strings.HasPrefix(kind, "application/grpc+") && !strings.HasPrefix(kind, "application/grpc;") {
			compared = d.rawStatus
		} else {
			compared("/etcdserverpb.KV/Nothing", body, "content-type", kind)
		}
		compared("/etcdserverpb.KV/Range", body, "content-type", kind)
	}
	d.raw("/etcdserverpb.KV/Range", body, "te", removed)
}

func brokenMessages(d *differential) {
	const path = "/etcdserverpb.KV/Range"
	good, _ := proto.Marshal(get("a", ""))
	frame := func(flag byte, content []byte) []byte {
		header := make([]byte, 5)
		header[0] = flag
		binary.BigEndian.PutUint32(header[1:], uint32(len(content)))
		return append(header, content...)
	}
	zipped := func(content []byte) []byte {
		var out bytes.Buffer
		writer := gzip.NewWriter(&out)
		writer.Write(content)
		writer.Close()
		return out.Bytes()
	}
	d.raw(path, frame(0, good))
	d.rawCode(path, frame(0, nil))
	d.rawCode(path, frame(0, []byte{0xff, 0xff, 0xff}))
	d.rawCode(path, frame(0, []byte{0x0a, 0x05, 'a'}))
	d.rawCode(path, frame(0, []byte{0x0a, 0x01, 'a', 0x98, 0x06, 0x01}))
	d.rawCode(path, frame(1, good))
	d.rawCode(path, frame(2, good))
	d.rawCode(path, frame(1, good), "grpc-encoding", "identity")
	d.rawCode(path, frame(1, zipped(good)), "grpc-encoding", "gzip")
	d.rawCode(path, frame(0, good), "grpc-encoding", "gzip")
	d.rawCode(path, frame(1, good), "grpc-encoding", "gzip")
	d.rawCode(path, frame(1, zipped(good)[:20]), "grpc-encoding", "gzip")
	d.rawCode(path, frame(1, zipped(make([]byte, 2<<20))), "grpc-encoding", "gzip")
	d.rawCode(path, frame(1, zipped(make([]byte, 2<<20+1))), "grpc-encoding", "gzip")
	d.rawCode(path, frame(1, zipped(make([]byte, 64<<20))), "grpc-encoding", "gzip")
	d.rawCode(path, frame(0, good), "grpc-encoding", "deflate")
	d.rawCode(path, frame(1, good), "grpc-encoding", "deflate")
	d.rawCode(path, frame(0, make([]byte, 2<<20)))
	d.rawCode(path, frame(0, make([]byte, 2<<20+1)))
	d.rawCode(path, []byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	d.rawCode("/etcdserverpb.Watch/Watch", frame(0, []byte{0xff, 0xff}))
	d.rawCode("/etcdserverpb.Lease/LeaseKeepAlive", frame(0, []byte{0xff, 0xff}))
	d.rawCode("/etcdserverpb.KV/RangeStream", frame(0, []byte{0xff, 0xff}))
	for _, method := range []string{"KV/Put", "KV/Txn", "KV/DeleteRange", "KV/Compact", "Lease/LeaseGrant", "Maintenance/Alarm", "Maintenance/Status", "Cluster/MemberList", "Lease/LeaseLeases"} {
		d.rawCode("/etcdserverpb."+method, frame(0, []byte{0xff, 0xff}))
	}
}

// framed is a message as the body of a unary call.
func framed(message proto.Message) []byte {
	content, _ := proto.Marshal(message)
	header := make([]byte, 5)
	binary.BigEndian.PutUint32(header[1:], uint32(len(content)))
	return append(header, content...)
}

// raw posts a body over HTTP/2 without a gRPC library and compares status, headers and trailers; of a
// successful answer only that it is one.
func (d *differential) raw(path string, body []byte, headers ...string) {
	d.post(path, body, headers, func(answer *postAnswer) string { return fmt.Sprintf("%+v", *answer) })
}

// rawCode compares no more than the result code, for requests that no client sends: the words are
// those of a library.
func (d *differential) rawCode(path string, body []byte, headers ...string) {
	d.post(path, body, headers, func(answer *postAnswer) string { return answer.grpcStatus })
}

// rawStatus compares no more than the HTTP status.
func (d *differential) rawStatus(path string, body []byte, headers ...string) {
	d.post(path, body, headers, func(answer *postAnswer) string { return fmt.Sprint(answer.status) })
}

// removed as the value of a header takes it away.
const removed = "(removed)"

type postAnswer struct {
	status                                         int
	contentType, grpcStatus, grpcMessage, encoding string
	body                                           string
}

func (d *differential) post(path string, body []byte, headers []string, show func(*postAnswer) string) {
	var texts [2]string
	d.each(func(side *side) {
		answer, err := side.post(path, body, headers)
		if err != nil {
			texts[d.index(side)] = "failed: " + addresses.ReplaceAllString(err.Error(), "ADDRESS")
			return
		}
		texts[d.index(side)] = show(answer)
	})
	d.same(fmt.Sprintf("POST %s %q %s", path, headers, shorten(fmt.Sprintf("%q", body[:min(len(body), 60)]))), texts)
}

// post sends a body over HTTP/2 on a connection of its own.
func (s *side) post(path string, body []byte, headers []string) (*postAnswer, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	client := http.Client{Timeout: limit, Transport: transport}
	request, err := http.NewRequest("POST", "http://"+s.endpoint+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	request.Header.Set("User-Agent", "differential")
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == removed {
			request.Header.Del(headers[i])
			continue
		}
		request.Header[http.CanonicalHeaderKey(headers[i])] = []string{headers[i+1]}
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content := readAll(answer.Body)
	field := func(name string) string {
		values := answer.Trailer.Values(name)
		if len(values) == 0 {
			values = answer.Header.Values(name)
		}
		return strings.Join(values, ",")
	}
	found := &postAnswer{answer.StatusCode, field("content-type"), field("grpc-status"),
		field("grpc-message"), field("grpc-encoding"), content}
	if found.grpcStatus == "0" && content != "" {
		found.body = "an answer"
	}
	return found, nil
}

func plainHTTP(d *differential) {
	for _, target := range []string{
		"/version", "/version?x=y", "/version/", "/health", "/health?serializable=true", "/health?serializable=false",
		"/health?serializable=yes", "/health?exclude=NOSPACE", "/health?exclude=", "/health?%zz", "/health/",
		"/", "/nothing", "/v2/keys", "/etcdserverpb.KV/Range", "/Version",
	} {
		for _, method := range []string{"GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE"} {
			d.http(method, target, "")
		}
	}
	d.http("POST", "/version", "body")
	d.http("POST", "/health", `{"a":1}`)
}
