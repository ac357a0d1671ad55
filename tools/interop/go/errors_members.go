package main

import (
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
)

// learnerPorts makes the URL of each learner another one: its id is made of its URLs and of the second that it is
// added in, and an id that was removed never comes back.
var learnerPorts atomic.Int64

func newLearnerURL() string { return fmt.Sprintf("http://127.0.0.1:%d", learnerPorts.Add(1)) }

func (s *asked) addLearner(url string) (*pb.MemberAddResponse, error) {
	return pb.NewClusterClient(s.conn).MemberAdd(s.ctx, &pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: true})
}

// withLearner asks something while there is a learner that never starts, so that the quorum stays.
func withLearner(how string, ask func(s *asked, learner *pb.Member) error) way {
	return way{how, func(s *asked) error {
		added, err := s.addLearner(newLearnerURL())
		s.must(err)
		answered := ask(s, added.Member)
		_, err = pb.NewClusterClient(s.conn).MemberRemove(s.ctx, &pb.MemberRemoveRequest{ID: added.Member.ID})
		s.must(err)
		return answered
	}}
}

// Changes of the membership of a single node.
var memberErrors = []errorRow{
	{name: "ErrGRPCMemberExist", err: rpctypes.ErrGRPCMemberExist, needs: served("/etcdserverpb.Cluster/MemberAdd"), ways: []way{
		{"a learner twice in one second", func(s *asked) error {
			for {
				begin := time.Now().Unix()
				answered := withLearner("", func(s *asked, learner *pb.Member) error {
					_, err := s.addLearner(learner.PeerURLs[0])
					return err
				}).ask(s)
				if begin == time.Now().Unix() {
					return answered
				}
			}
		}},
	}},
	{name: "ErrGRPCPeerURLExist", err: rpctypes.ErrGRPCPeerURLExist, needs: served("/etcdserverpb.Cluster/MemberAdd"), ways: []way{
		{"a learner with the URL of the member", func(s *asked) error {
			members, err := pb.NewClusterClient(s.conn).MemberList(s.ctx, &pb.MemberListRequest{})
			s.must(err)
			_, err = s.addLearner(members.Members[0].PeerURLs[0])
			return err
		}},
	}},
	{name: "ErrGRPCMemberNotEnoughStarted", err: rpctypes.ErrGRPCMemberNotEnoughStarted, sent: codes.Unknown,
		needs: served("/etcdserverpb.Cluster/MemberRemove"), ways: []way{
			{"the end of the only member", func(s *asked) error {
				_, err := pb.NewClusterClient(s.conn).MemberRemove(s.ctx, &pb.MemberRemoveRequest{ID: s.member})
				return err
			}},
		}},
	{name: "ErrGRPCMemberBadURLs", err: rpctypes.ErrGRPCMemberBadURLs, needs: served("/etcdserverpb.Cluster/MemberAdd"), ways: []way{
		{"a member without URLs", func(s *asked) error {
			_, err := pb.NewClusterClient(s.conn).MemberAdd(s.ctx, &pb.MemberAddRequest{})
			return err
		}},
		{"a URL without a port", func(s *asked) error {
			_, err := s.addLearner("http://localhost")
			return err
		}},
	}},
	{name: "ErrGRPCMemberNotFound", err: rpctypes.ErrGRPCMemberNotFound, needs: served("/etcdserverpb.Cluster/MemberUpdate"), ways: []way{
		{"new URLs for a member that is not there", func(s *asked) error {
			_, err := pb.NewClusterClient(s.conn).MemberUpdate(s.ctx, &pb.MemberUpdateRequest{ID: 7, PeerURLs: []string{newLearnerURL()}})
			return err
		}},
		{"the end of a member that is not there", func(s *asked) error {
			_, err := pb.NewClusterClient(s.conn).MemberRemove(s.ctx, &pb.MemberRemoveRequest{ID: 7})
			return err
		}},
		{"a vote for a member that is not there", func(s *asked) error {
			_, err := pb.NewClusterClient(s.conn).MemberPromote(s.ctx, &pb.MemberPromoteRequest{ID: 7})
			return err
		}},
	}},
	{name: "ErrGRPCMemberNotLearner", err: rpctypes.ErrGRPCMemberNotLearner, needs: served("/etcdserverpb.Cluster/MemberPromote"), ways: []way{
		{"a vote for the member that has one", func(s *asked) error {
			_, err := pb.NewClusterClient(s.conn).MemberPromote(s.ctx, &pb.MemberPromoteRequest{ID: s.member})
			return err
		}},
	}},
	{name: "ErrGRPCLearnerNotReady", err: rpctypes.ErrGRPCLearnerNotReady, needs: served("/etcdserverpb.Cluster/MemberPromote"), ways: []way{
		withLearner("a vote for a learner that has not started", func(s *asked, learner *pb.Member) error {
			_, err := pb.NewClusterClient(s.conn).MemberPromote(s.ctx, &pb.MemberPromoteRequest{ID: learner.ID})
			return err
		}),
	}},
	{name: "ErrGRPCTooManyLearners", err: rpctypes.ErrGRPCTooManyLearners, needs: served("/etcdserverpb.Cluster/MemberAdd"), ways: []way{
		withLearner("a second learner", func(s *asked, _ *pb.Member) error {
			_, err := s.addLearner(newLearnerURL())
			return err
		}),
	}},
}
