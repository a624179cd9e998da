/* The calls of the extension module, each in the file of its subject. */
#ifndef MAST_TRAIN_CALLS_H
#define MAST_TRAIN_CALLS_H
#include "arguments.h"

FUNCTION(call_agents_build);
FUNCTION(call_agents_saved);
FUNCTION(call_agents_forward);
FUNCTION(call_agents_backward);
FUNCTION(call_mixer_build);
FUNCTION(call_mixer_forward);
FUNCTION(call_mixer_backward);
FUNCTION(call_mixer_fit);
FUNCTION(call_positions);
FUNCTION(call_step);
FUNCTION(call_soft_mellowmax);
FUNCTION(call_td_lambda);
FUNCTION(call_episodes);
#endif
