package main

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
)

// authWay asks the Auth service.
func authWay(how string, ask func(s *asked, auth pb.AuthClient) error) way {
	return way{how, func(s *asked) error { return ask(s, pb.NewAuthClient(s.conn)) }}
}

func (s *asked) addUser(name string) error {
	_, err := pb.NewAuthClient(s.conn).UserAdd(s.ctx, &pb.AuthUserAddRequest{Name: name, Password: "secret"})
	return err
}

func (s *asked) addRole(name string) error {
	_, err := pb.NewAuthClient(s.conn).RoleAdd(s.ctx, &pb.AuthRoleAddRequest{Name: name})
	return err
}

func (s *asked) enableAuth() error {
	_, err := pb.NewAuthClient(s.conn).AuthEnable(s.ctx, &pb.AuthEnableRequest{})
	return err
}

func (s *asked) logIn(name, password string) error {
	answer, err := pb.NewAuthClient(s.conn).Authenticate(s.ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	if err == nil {
		s.tokens[name] = answer.Token
	}
	return err
}

// authIsOn brings users, of whom guest may do nothing, and turns authentication on.
func authIsOn(s *asked) {
	s.must(s.addRole("root"))
	_, err := pb.NewAuthClient(s.conn).UserGrantRole(s.ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	s.must(err)
	s.must(s.addUser("guest"))
	s.must(s.enableAuth())
	s.must(s.logIn("root", "secret"))
	s.must(s.logIn("guest", "secret"))
}

// Users, roles and tokens. Each row starts from what those before it have left, and the last ones from a server
// that asks for tokens.
var authErrors = []errorRow{
	{name: "ErrGRPCAuthNotEnabled", err: rpctypes.ErrGRPCAuthNotEnabled, needs: served("/etcdserverpb.Auth/Authenticate"), ways: []way{
		{"a log-in where authentication is off", func(s *asked) error { return s.logIn("root", "secret") }},
	}},
	{name: "ErrGRPCRootUserNotExist", err: rpctypes.ErrGRPCRootUserNotExist, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"authentication without a root user", (*asked).enableAuth},
	}},
	{name: "ErrGRPCUserEmpty", err: rpctypes.ErrGRPCUserEmpty, needs: served("/etcdserverpb.Auth/UserAdd"), ways: []way{
		{"a user without a name", func(s *asked) error { return s.addUser("") }},
	}},
	{name: "ErrGRPCUserAlreadyExist", err: rpctypes.ErrGRPCUserAlreadyExist, needs: served("/etcdserverpb.Auth/UserAdd"), ways: []way{
		{"a user twice", func(s *asked) error {
			s.must(s.addUser("root"))
			return s.addUser("root")
		}},
	}},
	{name: "ErrGRPCRootRoleNotExist", err: rpctypes.ErrGRPCRootRoleNotExist, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"authentication with a root user who has no role", (*asked).enableAuth},
	}},
	{name: "ErrGRPCUserNotFound", err: rpctypes.ErrGRPCUserNotFound, needs: served("/etcdserverpb.Auth/UserGet"), ways: []way{
		authWay("a user who is not there", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.UserGet(s.ctx, &pb.AuthUserGetRequest{Name: "nobody"})
			return err
		}),
	}},
	{name: "ErrGRPCRoleEmpty", err: rpctypes.ErrGRPCRoleEmpty, needs: served("/etcdserverpb.Auth/RoleAdd"), ways: []way{
		{"a role without a name", func(s *asked) error { return s.addRole("") }},
	}},
	{name: "ErrGRPCRoleAlreadyExist", err: rpctypes.ErrGRPCRoleAlreadyExist, needs: served("/etcdserverpb.Auth/RoleAdd"), ways: []way{
		{"a role twice", func(s *asked) error {
			s.must(s.addRole("reader"))
			return s.addRole("reader")
		}},
	}},
	{name: "ErrGRPCRoleNotFound", err: rpctypes.ErrGRPCRoleNotFound, needs: served("/etcdserverpb.Auth/RoleGet"), ways: []way{
		authWay("a role that is not there", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.RoleGet(s.ctx, &pb.AuthRoleGetRequest{Role: "none"})
			return err
		}),
	}},
	{name: "ErrGRPCRoleNotGranted", err: rpctypes.ErrGRPCRoleNotGranted, needs: served("/etcdserverpb.Auth/UserRevokeRole"), ways: []way{
		authWay("a role taken from a user who has it not", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.UserRevokeRole(s.ctx, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "reader"})
			return err
		}),
	}},
	{name: "ErrGRPCPermissionNotGiven", err: rpctypes.ErrGRPCPermissionNotGiven, needs: served("/etcdserverpb.Auth/RoleGrantPermission"), ways: []way{
		authWay("a permission of nothing", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.RoleGrantPermission(s.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "reader"})
			return err
		}),
	}},
	{name: "ErrGRPCPermissionNotGranted", err: rpctypes.ErrGRPCPermissionNotGranted, needs: served("/etcdserverpb.Auth/RoleRevokePermission"), ways: []way{
		authWay("a permission taken from a role that has it not", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.RoleRevokePermission(s.ctx, &pb.AuthRoleRevokePermissionRequest{Role: "reader", Key: []byte("k")})
			return err
		}),
	}},
	{name: "ErrGRPCAuthFailed", err: rpctypes.ErrGRPCAuthFailed, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"a wrong password", func(s *asked) error {
			authIsOn(s)
			return s.logIn("root", "guess")
		}},
		{"a user who is not there", func(s *asked) error { return s.logIn("nobody", "secret") }},
	}},
	{name: "ErrGRPCInvalidAuthToken", err: rpctypes.ErrGRPCInvalidAuthToken, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"a token that nobody gave", func(s *asked) error {
			s.tokens["forger"] = "token"
			return s.as("forger").call(get("k", ""))
		}},
	}},
	{name: "ErrGRPCPermissionDenied", err: rpctypes.ErrGRPCPermissionDenied, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"a range by one who may not read", func(s *asked) error { return s.as("guest").call(get("k", "")) }},
		{"a put by one who may not write", func(s *asked) error { return s.as("guest").call(put("k", "")) }},
		{"a watch by one who may not read", func(s *asked) error {
			return canceled("", codes.PermissionDenied, creation("k", ""), 1).ask(s.as("guest"))
		}},
	}},
	{name: "ErrGRPCInvalidAuthMgmt", err: rpctypes.ErrGRPCInvalidAuthMgmt, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		authWay("the end of the root user", func(s *asked, auth pb.AuthClient) error {
			_, err := auth.UserDelete(s.as("root").ctx, &pb.AuthUserDeleteRequest{Name: "root"})
			return err
		}),
	}},
	{name: "ErrGRPCAuthOldRevision", err: rpctypes.ErrGRPCAuthOldRevision, needs: served("/etcdserverpb.Auth/AuthEnable"), ways: []way{
		{"a token from before the last change of users", func(s *asked) error {
			s.must(s.as("root").addUser("newcomer"))
			return s.as("root").call(put("k", ""))
		}},
	}},
}
