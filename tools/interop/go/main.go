// Scenarios runs etcd's own Go client against a server and says what does not hold.
//
//	scenarios clients ENDPOINT      kv, transactions, watches, leases
//	scenarios kubernetes ENDPOINT   the calls of a Kubernetes API server, in their exact shapes
//	scenarios differential ENDPOINT REFERENCE   the same raw requests to two servers, answers compared
//	scenarios errors ENDPOINT REFERENCE   every error of etcd's table, provoked on two servers
//	scenarios timeouts ENDPOINT REFERENCE   the error of two servers whose disk stands still
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// limit bounds every single wait of a scenario.
const limit = 15 * time.Second

// scenario is one named behaviour; it panics with a failure when something does not hold.
type scenario struct {
	name string
	run  func(*run)
}

// run is what a scenario works with: its own client and a bounded context.
type run struct {
	client *clientv3.Client
	ctx    context.Context
}

// failure is what must hold and does not.
type failure struct{ text string }

func (r *run) fail(format string, values ...any) {
	panic(failure{fmt.Sprintf(format, values...)})
}

func (r *run) must(holds bool, format string, values ...any) {
	if !holds {
		r.fail(format, values...)
	}
}

func (r *run) noError(err error, format string, values ...any) {
	if err != nil {
		r.fail("%s: %v", fmt.Sprintf(format, values...), err)
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "differential" {
		os.Exit(runDifferential(os.Args[2:]))
	}
	if len(os.Args) == 4 && os.Args[1] == "errors" {
		os.Exit(runErrors(os.Args[2:]))
	}
	if len(os.Args) == 4 && os.Args[1] == "timeouts" {
		os.Exit(runTimeouts(os.Args[2:]))
	}
	sets := map[string][]scenario{"clients": clientScenarios, "kubernetes": kubernetesScenarios}
	if len(os.Args) != 3 || sets[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: scenarios clients|kubernetes ENDPOINT")
		os.Exit(2)
	}
	failed := 0
	for _, scenario := range sets[os.Args[1]] {
		begin := time.Now()
		if err := scenario.try(os.Args[2]); err != nil {
			failed++
			fmt.Printf("FAILED %s: %v\n", scenario.name, err)
		} else {
			fmt.Printf("ok     %s (%d ms)\n", scenario.name, time.Since(begin).Milliseconds())
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}

func (s scenario) try(endpoint string) (err error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: limit,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	defer func() {
		switch problem := recover().(type) {
		case nil:
		case failure:
			err = fmt.Errorf("%s", problem.text)
		default:
			panic(problem)
		}
	}()
	s.run(&run{client: client, ctx: ctx})
	return nil
}
