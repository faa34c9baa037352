package warmstop

import (
	"os"
	"testing"

	"github.com/residentctl/residentctl/internal/unchanged"
)

func TestMain(m *testing.M) { os.Exit(unchanged.Run(m, nil)) }
