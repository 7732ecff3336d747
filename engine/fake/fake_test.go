package fake_test

import (
	"testing"

	"go.uber.org/goleak"

	"slipway/engine"
	"slipway/engine/enginetest"
	"slipway/engine/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) *enginetest.Harness {
		e := fake.New(t, "")
		return &enginetest.Harness{
			Engine:  e,
			Reopen:  func(testing.TB) engine.Engine { e = e.Reopen(); return e },
			Collect: func(testing.TB) { e.Collect() },
			Registries: func(testing.TB) (engine.Login, string, string) {
				e.Protect("guarded.example", "ann", "right-4711")
				e.Unreachable("closed.example")
				e.NoRegistry("page.example")
				return engine.Login{Host: "guarded.example", Username: "ann", Password: "right-4711"}, "closed.example", "page.example"
			},
		}
	})
}
