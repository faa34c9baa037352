package linkstop

import (
	"github.com/residentctl/residentctl/internal/linux"
)

// Stack reads the process's initial stack, which its stack pointer must still
// point to.
func (p *Process) Stack() (InitialStack, linux.Auxv, error) {
	maps, err := p.Maps()
	if err != nil {
		return InitialStack{}, nil, err
	}
	stack, auxv, _, err := readStack(p.PID, p.Regs.Rsp, maps)
	return stack, auxv, err
}
