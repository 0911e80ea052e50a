"""Export of fitted estimators as graphs of ONNX and OpenVINO, which serve without torch and skxlmr."""
